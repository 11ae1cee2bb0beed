"""Invariants 25 and 27, on the host's side: what it remembers, nobody else can slip in or read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.errors import ConfigError, KeysChanged, LocalIOError
from pgkeep.repository.host import HostKey, HostState, parse_host_key, write_durably, write_once
from pgkeep.seal import age

URL = "file:///somewhere"
ONE, TWO = "a" * 32, "b" * 32


def test_of_many_first_looks_one_is_pinned(tmp_path: Path) -> None:
    """Two processes that meet two repositories under one URL cannot both be told that all is
    well."""
    for attempt in range(20):
        directory = tmp_path / str(attempt)
        start = threading.Barrier(8)
        accepted: list[str] = []

        def look(
            fingerprint: str,
            directory: Path = directory,
            start: threading.Barrier = start,
            accepted: list[str] = accepted,
        ) -> None:
            state = HostState(directory)
            start.wait()
            try:
                state.check_pin(URL, "id", fingerprint)
                accepted.append(fingerprint)
            except KeysChanged:
                pass

        threads = [threading.Thread(target=look, args=((ONE, TWO)[i % 2],)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(accepted)) == 1
        assert len(accepted) == 4


def test_nothing_is_left_beside_what_was_written(tmp_path: Path) -> None:
    state = HostState(tmp_path / "state")
    state.check_pin(URL, "id", ONE)
    state.check_pin(URL, "id", ONE)
    state.pin(URL, "id", ONE)
    assert len(list((tmp_path / "state" / "repositories").iterdir())) == 1
    assert write_once(tmp_path / "state" / "x", b"1")
    assert not write_once(tmp_path / "state" / "x", b"2")
    assert (tmp_path / "state" / "x").read_bytes() == b"1"
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(LocalIOError):
        write_durably(target, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("folder", ["repositories", "keys"])
def test_a_folder_that_is_a_link_is_refused(tmp_path: Path, folder: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / folder).symlink_to(elsewhere)
    state = HostState(directory)
    secret, _ = age.generate_identity()
    use: dict[str, Callable[[], object]] = {
        "keys": lambda: state.save_host_key("id", HostKey(ONE, secret)),
        "repositories": lambda: state.check_pin(URL, "id", ONE),
    }
    with pytest.raises(LocalIOError):
        use[folder]()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    state = HostState(tmp_path)
    state.check_pin(URL, "id", ONE)
    (tmp_path / "repositories").chmod(mode)
    with pytest.raises(LocalIOError, match="owner alone"):
        state.check_pin(URL, "id", ONE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """As in a volume that anybody may write to, which is what containers get."""
    state = HostState(tmp_path)
    state.check_pin(URL, "id", ONE)
    os.chown(tmp_path / "repositories", 12345, 12345)
    with pytest.raises(LocalIOError, match="owner alone"):
        state.check_pin(URL, "id", ONE)


def test_a_volume_that_anybody_may_write_to_serves(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    state = HostState(tmp_path)
    secret, _ = age.generate_identity()
    state.check_pin(URL, "id", ONE)
    state.save_host_key("id", HostKey(ONE, secret))
    for folder in ("repositories", "keys"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
    assert state.host_key("id") == HostKey(ONE, secret)


def test_a_host_key_that_anybody_may_read_is_refused(tmp_path: Path) -> None:
    secret, _ = age.generate_identity()
    state = HostState(tmp_path)
    path = state.save_host_key("id", HostKey(ONE, secret))
    path.chmod(0o644)
    with pytest.raises(LocalIOError) as caught:
        state.host_key("id")
    assert secret not in str(caught.value)


def test_a_host_key_that_is_a_link_is_refused(tmp_path: Path) -> None:
    secret, _ = age.generate_identity()
    state = HostState(tmp_path)
    path = state.save_host_key("id", HostKey(ONE, secret))
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(LocalIOError):
        state.host_key("id")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"7", b"\xff", b'{"id": 7}', b"[" * 50_000]
)
def test_a_pin_that_is_damaged_is_an_error_and_not_a_first_look(
    tmp_path: Path, text: bytes
) -> None:
    state = HostState(tmp_path)
    state.check_pin(URL, "id", ONE)
    (pin,) = (tmp_path / "repositories").iterdir()
    pin.write_bytes(text)
    with pytest.raises((LocalIOError, KeysChanged)):
        state.check_pin(URL, "id", ONE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "PGKEEP-HOST-KEY-1::AGE-SECRET-KEY-1X",
        f"PGKEEP-HOST-KEY-1:{'g' * 32}:AGE-SECRET-KEY-1X",
        f"PGKEEP-HOST-KEY-1:{ONE}:age1public",
        f"PGKEEP-HOST-KEY-1:{ONE}:AGE-SECRET-KEY-1X:more",
        f"PGKEEP-HOST-KEY-2:{ONE}:AGE-SECRET-KEY-1X",
    ],
)
def test_a_malformed_host_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_host_key(text)
