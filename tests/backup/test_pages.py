"""Damaged pages are found, named and marked, and torn ones are not taken for damaged
(invariants 10 and 12)."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from pgkeep.backup import reader
from pgkeep.backup.reader import PageFormat, Patience, RunReader
from pgkeep.postgres.lsn import Lsn
from tests.backup.scratch import PAGE, RUN, START_LSN, STOP_LSN, Scratch
from tests.postgres.pages import KEY, stamp

FILE = "base/5/16384"
OLD = Lsn(START_LSN - 0x1000)


def page(block: int, *, lsn: Lsn = OLD, spoilt: bool = False) -> bytes:
    """A page as a server writes it; ``spoilt`` has one bit flipped since."""
    content = bytearray(os.urandom(PAGE))
    struct.pack_into("=II", content, 0, lsn >> 32, lsn & 0xFFFFFFFF)
    struct.pack_into("=H", content, 14, 4096)  # pd_upper: zero would mark a new page
    made = bytearray(stamp(content, block))
    if spoilt:
        made[8] ^= 4  # in pd_checksum: one page in 65,536 survives a flip elsewhere
    return bytes(made)


@pytest.fixture
def sleepless(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between reads are noted and not made."""
    pauses: list[float] = []
    real = reader.RunReader.__init__

    def init(self: RunReader, *args: object, **more: object) -> None:
        real(self, *args, **more)  # type: ignore[arg-type]
        self.sleep = pauses.append

    monkeypatch.setattr(reader.RunReader, "__init__", init)
    return pauses


def failed_pages(tmp_path: Path, content: bytes, *, name: str = FILE) -> list[int]:
    scratch = Scratch(tmp_path)
    scratch.write(name, content)
    backup = scratch.copy()
    assert backup.content(name) == content
    assert backup.head["failed_pages"] == len(backup.files[name].failed)
    return backup.files[name].failed


def test_a_flipped_bit_is_marked_by_its_page_and_the_bytes_are_kept(
    tmp_path: Path, sleepless: list[float]
) -> None:
    bad = {3, 130, 131, 300}
    content = b"".join(page(block, spoilt=block in bad) for block in range(301))
    assert failed_pages(tmp_path, content) == sorted(bad)
    assert sum(sleepless) == pytest.approx(3 * 1.0)  # a second for each of three runs


def test_sound_pages_are_not_marked(tmp_path: Path) -> None:
    content = b"".join(page(block) for block in range(200)) + bytes(PAGE * 5)
    assert failed_pages(tmp_path, content) == []


def test_a_segment_file_counts_its_blocks_in_the_relation(tmp_path: Path) -> None:
    first = 2 * (1 << 30) // PAGE
    content = b"".join(page(first + block, spoilt=block == 4) for block in range(6))
    assert failed_pages(tmp_path, content, name=FILE + ".2") == [4]


def test_only_relations_of_clusters_with_checksums_are_checked(tmp_path: Path) -> None:
    content = page(0, spoilt=True)
    names = ["base/5/pg_filenode.map", "pg_xact/0000", "base/5/notes.16384"]
    scratch = Scratch(tmp_path / "with")
    for name in names:
        scratch.write(name, content)
    assert scratch.copy().head["failed_pages"] == 0
    without = Scratch(tmp_path / "without", checksums=False)
    without.write(FILE, content)
    assert without.copy().head["failed_pages"] == 0


@pytest.mark.parametrize(
    ("lsn", "marked"),
    [
        (Lsn(START_LSN - 1), True),
        (START_LSN, False),
        (STOP_LSN, False),
        (Lsn(STOP_LSN + 1), True),
        (Lsn(0xFFFFFFFF_FFFFFFFF), True),
    ],
    ids=["before", "at the start", "at the stop", "after the stop", "absurd"],
)
def test_a_failing_page_is_exempt_if_wal_of_the_backup_repairs_it(
    tmp_path: Path, sleepless: list[float], lsn: Lsn, marked: bool
) -> None:
    content = page(0) + page(1, lsn=lsn, spoilt=True) + page(2)
    assert failed_pages(tmp_path, content) == ([1] if marked else [])


def test_a_torn_page_is_healed_by_reading_again(tmp_path: Path) -> None:
    """The server is in the middle of writing: the first three reads see half of it."""
    good = b"".join(page(block) for block in range(4))
    torn = good[: PAGE + 4096] + bytes(4096) + good[2 * PAGE :]
    path = tmp_path / "file"
    path.write_bytes(torn)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            path.write_bytes(good)

    handle = os.open(path, os.O_RDONLY)
    try:
        buffer = memoryview(bytearray(RUN))
        found = RunReader(
            handle, buffer, PageFormat(PAGE, KEY, True, 0, START_LSN), sleep=sleep
        ).read(0, RUN)
    finally:
        os.close(handle)
    assert found is not None
    assert bytes(found.data) == good
    assert found.suspects == ()
    assert len(pauses) == 3


def test_hash_and_bytes_of_a_page_that_was_read_again_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = b"".join(page(block) for block in range(10))
    scratch = Scratch(tmp_path)
    path = scratch.write(FILE, good[: 3 * PAGE] + os.urandom(PAGE) + good[4 * PAGE :])
    real = os.pread

    def mend(handle: int, size: int, offset: int) -> bytes:
        path.write_bytes(good)
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", mend)
    backup = scratch.copy()
    assert backup.content(FILE) == good
    assert backup.files[FILE].failed == []
    backup.check_everything()  # hashes of pages, among others


def test_a_page_that_is_cut_off_while_it_is_read_again_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleepless: list[float]
) -> None:
    content = page(0) + page(1, spoilt=True)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    assert failed_pages(tmp_path, content) == [1]


def test_a_file_that_is_damaged_throughout_does_not_take_a_second_per_megabyte(
    tmp_path: Path, sleepless: list[float]
) -> None:
    runs = 80  # more than one stretch
    content = b"".join(page(block, spoilt=True) for block in range(runs * RUN // PAGE))
    began = time.monotonic()
    assert len(failed_pages(tmp_path, content)) == runs * RUN // PAGE
    assert sum(sleepless) <= reader._PATIENT_RUNS_OF_FILE + 2  # two workers share the count
    assert time.monotonic() - began < 60


def test_a_damaged_file_does_not_use_up_the_patience_for_others(
    tmp_path: Path, sleepless: list[float]
) -> None:
    scratch = Scratch(tmp_path, jobs=1)
    many = b"".join(page(block, spoilt=block % 128 == 5) for block in range(80 * 128))
    scratch.write(FILE, many)
    scratch.write("base/5/16385", page(0, spoilt=True))
    backup = scratch.copy()
    assert backup.head["failed_pages"] == 81
    assert sum(sleepless) == reader._PATIENT_RUNS_OF_FILE + 1


def test_patience_is_bounded_for_the_whole_backup_too() -> None:
    whole = Patience()
    waited = 0
    for _ in range(100):
        file = Patience(whole)
        while file.is_left:
            file.spend()
            waited += 1
    assert waited == reader._PATIENT_RUNS
