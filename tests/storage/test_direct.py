"""Bytes written past the page cache are the bytes that were given, wherever that is possible."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.storage import direct
from pgkeep.storage.direct import BLOCK_BYTES, WORTHWHILE_BYTES, aligned_buffer, write_at

LARGE = 4 * WORTHWHILE_BYTES
PLACES = ["/dev/shm", None]


@pytest.fixture(params=PLACES, ids=["memory", "disk"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param is None:
        yield tmp_path / "file"
        return
    if not Path(request.param).is_dir():
        pytest.skip(f"no {request.param} here")
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        yield Path(folder) / "file"


def content(length: int) -> memoryview:
    buffer = aligned_buffer(max(length, 1))
    buffer[:length] = os.urandom(length)
    return memoryview(buffer)[:length]


def written(file: Path, data: memoryview, offset: int) -> bytes:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        write_at(handle, data, offset)
        assert fcntl.fcntl(handle, fcntl.F_GETFL) == flags
    finally:
        os.close(handle)
    return file.read_bytes()


@pytest.mark.parametrize("offset", [0, 8192, 1000])
@pytest.mark.parametrize("length", [0, 1, 8192, WORTHWHILE_BYTES, LARGE, LARGE + 1, LARGE + 5000])
def test_every_length_at_every_offset_arrives(file: Path, length: int, offset: int) -> None:
    data = content(length)
    found = written(file, data, offset)
    assert found[offset:] == bytes(data)
    assert not any(found[:offset])


def test_memory_that_is_not_aligned_is_written_all_the_same(file: Path) -> None:
    data = content(LARGE + 512)[512 + 1 :]
    assert written(file, data, 0) == bytes(data)


def test_what_lies_around_is_left_alone(file: Path) -> None:
    file.write_bytes(b"x" * 3 * LARGE)
    data = content(LARGE)
    found = written(file, data, LARGE)
    assert found == b"x" * LARGE + bytes(data) + b"x" * LARGE


def test_direct_writes_are_used_where_the_file_system_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the temporary folder has no O_DIRECT")
    seen = record_writes(monkeypatch)
    written(tmp_path / "file", content(LARGE + 100), 0)
    assert seen == [(True, LARGE), (False, 100)]


def test_a_refusal_turns_them_off_for_this_write(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_writes(monkeypatch, refuse=True)
    data = content(LARGE)
    assert written(file, data, 0) == bytes(data)
    assert seen[-1] == (False, LARGE)


def test_another_error_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        written(file, content(LARGE), 0)


def test_buffers_start_on_a_block() -> None:
    import ctypes

    buffer = aligned_buffer(LARGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    assert address % BLOCK_BYTES == 0


def record_writes(
    monkeypatch: pytest.MonkeyPatch, *, refuse: bool = False
) -> list[tuple[bool, int]]:
    """(directly, length) of each call, in order."""
    seen: list[tuple[bool, int]] = []
    pwrite = os.pwrite

    def record(handle: int, data: memoryview, offset: int) -> int:
        directly = bool(fcntl.fcntl(handle, fcntl.F_GETFL) & direct._O_DIRECT)
        seen.append((directly, len(data)))
        if directly and refuse:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return pwrite(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", record)
    return seen
