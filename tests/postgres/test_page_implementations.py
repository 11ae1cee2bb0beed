"""Promise: the C module and its numpy twin are one thing to their caller.

The same arguments are refused, either serves alone, and the C module lets other threads run.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pgkeep.postgres import page as page_module
from pgkeep.postgres.page import checksum_page, implementation_name, implementations, scan_pages
from tests.postgres.pages import ALL, KEY, sound_page

each_implementation = pytest.mark.parametrize("implementation", ALL)
needs_c = pytest.mark.skipif(ALL == ("numpy",), reason="the C module is not built")


@each_implementation
@pytest.mark.parametrize(
    "wrong",
    [
        {"page_size": 512},
        {"page_size": 65536},
        {"page_size": 8191},
        {"page_size": 0},
        {"page_size": -8192},
        {"key": b"k" * 31},
        {"key": b"k" * 33},
        {"first_block": 2**32},
        {"first_block": -1},
    ],
)
def test_wrong_arguments_are_refused_by_each(implementation: str, wrong: dict[str, object]) -> None:
    arguments: dict[str, object] = {"key": KEY, **wrong}
    with pytest.raises(ValueError):
        scan_pages(bytes(8192), implementation=implementation, **arguments)  # type: ignore[arg-type]


@each_implementation
def test_a_page_of_another_size_has_no_checksum(implementation: str) -> None:
    with pytest.raises(ValueError):
        checksum_page(bytes(1000), 0, implementation=implementation)


def test_an_implementation_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="there are"):
        scan_pages(b"", key=KEY, implementation="c-mmx")


def test_without_the_c_module_numpy_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound_page(8192, 3) + bytes(8192)
    expected = scan_pages(data, key=KEY, first_block=3)
    monkeypatch.setitem(sys.modules, "pgkeep.postgres._pages", None)
    monkeypatch.delattr("pgkeep.postgres._pages", raising=False)
    implementations.cache_clear()
    try:
        assert implementation_name() == "numpy"
        assert implementations() == ("numpy",)
        assert scan_pages(data, key=KEY, first_block=3) == expected
    finally:
        implementations.cache_clear()


@needs_c
def test_the_c_module_needs_no_numpy() -> None:
    program = (
        "import sys; from pgkeep.postgres.page import scan_pages;"
        "scan_pages(bytes(8192), key=bytes(32)); assert 'numpy' not in sys.modules"
    )
    path = Path(page_module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=path)


@needs_c
def test_the_c_module_releases_the_gil() -> None:
    data = bytes(64 * 1024 * 1024)
    # A busy machine can make us wait without any lock; a held lock does so every time.
    assert any(longest_wait_during_scan(data) < 0.5 for _ in range(10))


def longest_wait_during_scan(data: bytes) -> float:
    """The longest that this thread stood still, as a part of the other thread's scan."""
    times: list[float] = []

    def scan() -> None:
        times.append(time.perf_counter())
        scan_pages(data, key=KEY, implementation="c-portable")
        times.append(time.perf_counter())

    thread = threading.Thread(target=scan)
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while len(times) < 2:
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest / (times[1] - times[0])
