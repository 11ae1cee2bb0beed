"""Files change while they are read. Whatever WAL will mend may come out either way, but the
backup goes on, and what it says of a file is true to the bytes that were read."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from pgkeep.backup import copy
from pgkeep.backup.source import SourceFile
from pgkeep.errors import LocalIOError
from tests.backup.scratch import PAGE, RUN, Hook, Scratch


def one_by_one(tmp_path: Path, hook: object = None) -> Scratch:
    """A copy by one worker, so that what happens when is certain."""
    return Scratch(tmp_path, jobs=1, listener=hook or Hook())  # type: ignore[arg-type]


def test_what_vanished_after_the_walk_is_left_out(tmp_path: Path) -> None:
    scratch = one_by_one(tmp_path)
    scratch.write("stays", b"content")
    scratch.write("file", b"gone")
    scratch.write("database/1", b"gone")
    files = scratch.walk().files
    (scratch.data / "file").unlink()
    shutil.rmtree(scratch.data / "database")
    assert [*scratch.copy(files).files] == ["stays"]


def test_a_file_that_vanishes_while_it_is_read_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "STRETCH_BYTES", 2 * RUN)
    scratch = one_by_one(tmp_path)
    content = os.urandom(5 * RUN)
    path = scratch.write("file", content)
    scratch.listener = Hook(lambda number: path.unlink() if number == 1 else None)
    backup = scratch.copy()
    assert backup.content("file") == content[: 2 * RUN]  # the stretch that was open
    backup.check_everything()


def test_a_file_whose_first_part_vanished_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "STRETCH_BYTES", RUN)
    opened = os.open
    asked: list[str] = []

    def vanish_first(path: str, *rest: int, **more: int) -> int:
        if str(path).endswith("/file"):
            asked.append(path)
            if len(asked) == 1:
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return opened(path, *rest, **more)

    scratch = one_by_one(tmp_path)
    scratch.write("file", os.urandom(3 * RUN))
    monkeypatch.setattr(os, "open", vanish_first)
    assert not scratch.copy().files
    assert len(asked) == 3


@pytest.mark.parametrize("left", [0, PAGE, RUN, RUN + PAGE, RUN + 5000, 2 * RUN - 1])
def test_a_file_that_shrinks_ends_where_reading_ended(tmp_path: Path, left: int) -> None:
    scratch = one_by_one(tmp_path)
    content = os.urandom(4 * RUN)
    path = scratch.write("file", content)
    scratch.listener = Hook(lambda number: os.truncate(path, left) if number == 1 else None)
    backup = scratch.copy()
    assert backup.content("file") == content[: max(left, RUN)]
    backup.check_everything()


def test_a_file_that_shrinks_to_nothing_before_it_is_read_is_empty(tmp_path: Path) -> None:
    scratch = one_by_one(tmp_path)
    path = scratch.write("file", bytes(3 * RUN))
    files = scratch.walk().files
    os.truncate(path, 0)
    assert scratch.copy(files).content("file") == b""


def test_what_grows_is_read_to_the_size_it_had(tmp_path: Path) -> None:
    scratch = one_by_one(tmp_path)
    content = os.urandom(RUN + 5000)
    path = scratch.write("file", content)
    files = scratch.walk().files
    with path.open("ab") as file:
        file.write(os.urandom(RUN))
    assert scratch.copy(files).content("file") == content


def test_a_file_that_shrinks_off_a_page_and_grows_again_keeps_its_pages_apart(
    tmp_path: Path,
) -> None:
    scratch = one_by_one(tmp_path)
    content = os.urandom(4 * RUN)
    path = scratch.write("file", content)

    def change(number: int) -> None:
        if number == 1:
            os.truncate(path, RUN + 5000)
        elif number == 2:
            path.write_bytes(content)

    scratch.listener = Hook(change)
    backup = scratch.copy()
    assert backup.content("file") == content[: RUN + 5000]
    backup.check_everything()


@pytest.mark.parametrize("left", [RUN, RUN + PAGE, RUN + 5000, 5000])
def test_zeros_stand_where_a_file_was_cut_and_extended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    monkeypatch.setattr(copy, "STRETCH_BYTES", 2 * RUN)
    scratch = one_by_one(tmp_path)
    content = os.urandom(5 * RUN)
    path = scratch.write("file", content)
    reader = os.preadv

    def cut_off(handle: int, buffers: list[memoryview], offset: int) -> int:
        if offset < 2 * RUN:  # the first stretch meets the file at its shortest
            keep = max(0, min(len(buffers[0]), left - offset))
            return reader(handle, [buffers[0][:keep]], offset) if keep else 0
        return reader(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut_off)
    assert path.stat().st_size == 5 * RUN
    backup = scratch.copy()
    whole_pages = left // PAGE * PAGE
    expected = content[:whole_pages] + bytes(2 * RUN - whole_pages) + content[2 * RUN :]
    assert backup.content("file") == expected
    backup.check_everything()


def test_a_read_that_comes_in_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda handle, buffers, at: reader(handle, [buffers[0][:100_001]], at)
    )
    scratch = one_by_one(tmp_path)
    content = os.urandom(2 * RUN + 99)
    scratch.write("file", content)
    assert scratch.copy().content("file") == content


def test_a_disk_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    scratch = Scratch(tmp_path)
    scratch.write("base/5/16384", bytes(10 * RUN))
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(LocalIOError) as caught:
        scratch.copy()
    assert "base/5/16384" in caught.value.what
    assert caught.value.why == "Input/output error."


def test_a_file_that_may_not_be_read_is_an_error_and_no_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    scratch = Scratch(tmp_path)
    scratch.write("file", b"content")
    files: list[SourceFile] = scratch.walk().files
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(LocalIOError):
        scratch.copy(files)
