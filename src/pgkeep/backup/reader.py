"""Reading runs of pages: once, into private memory, and never again from the file.

Checksum, hash, zero test and frame all use the very bytes that were read. So a torn page and
its hash are a sound pair: WAL replay heals the page, and the next backup sees a difference. A
page that is read again because its checksum failed replaces those bytes first.

A failing page is read again at once: the server may be in the middle of writing it. One whose
LSN is at or after the backup's start is restored from WAL and only noted here, to be judged when
the backup's stop is known. Any other is read up to four times more over a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.page import HASH_SIZE, FailedPage, PageScan, scan_pages

RUN_BYTES = 1 << 20
_PAUSES_SECONDS = (0.0, 0.25, 0.25, 0.25, 0.25)
_PATIENT_RUNS_OF_FILE = 8
_PATIENT_RUNS = 64


class SuspectPage(NamedTuple):
    """A page (counted in its file) whose checksum fails. ``lsn`` is what its header claims."""

    page: int
    lsn: Lsn


@dataclass(frozen=True)
class PageFormat:
    """How the pages of a file are to be looked at. ``first_block`` is the file's, in its
    relation."""

    page_size: int
    key: bytes
    verify: bool
    first_block: int
    start_lsn: Lsn


class Patience:
    """How many damaged runs may still be waited for, of one file and of the whole backup.

    A file that is damaged throughout would otherwise cost a second for each of its megabytes.
    Shared by the threads that read one file; a lost count does no harm.
    """

    def __init__(self, whole: Patience | None = None) -> None:
        self._left = _PATIENT_RUNS if whole is None else _PATIENT_RUNS_OF_FILE
        self._whole = whole

    @property
    def is_left(self) -> bool:
        return self._left > 0 and (self._whole is None or self._whole.is_left)

    def spend(self) -> None:
        self._left -= 1
        if self._whole is not None:
            self._whole.spend()


@dataclass(frozen=True)
class Run:
    """What was read at ``offset`` of a file: ``data`` is a view that the next read overwrites."""

    offset: int
    data: memoryview
    hashes: bytes
    zero_runs: tuple[tuple[int, int], ...]
    suspects: tuple[SuspectPage, ...]


@dataclass
class RunReader:
    """Reads one open file. Made for one thread, whose buffer it fills."""

    handle: int
    buffer: memoryview
    format: PageFormat
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = time.sleep

    def read(self, offset: int, length: int) -> Run | None:
        """Read up to ``length`` bytes (at most RUN_BYTES) from ``offset``; None at the end of
        file."""
        data = self.buffer[: self._fill(offset, length)]
        if not len(data):
            return None
        page = offset // self.format.page_size
        scan = self._scan(data, page)
        suspects: list[SuspectPage] = []
        if scan.failed:
            scan, suspects = self._judge(offset, data, scan)
        return Run(offset, data, scan.hashes, tuple(scan.zero_runs()), tuple(suspects))

    def read_pages(self, stretches: Iterable[tuple[int, int]]) -> tuple[memoryview, bytes] | None:
        """Whole pages of several places, as (first page, one past the last), RUN_BYTES in all at
        most: their bytes one after another, and their hashes. Checksums are not looked at.

        None where the file ends before one of them.
        """
        size, filled = self.format.page_size, 0
        for first, last in stretches:
            length = (last - first) * size
            if self._fill(first * size, length, into=filled) < length:
                return None
            filled += length
        data = self.buffer[:filled]
        return data, self._scan(data, 0, verify=False).hashes

    def _fill(self, offset: int, length: int, *, into: int = 0) -> int:
        filled = 0
        while filled < length:
            room = self.buffer[into + filled : into + length]
            count = os.preadv(self.handle, [room], offset + filled)
            if count == 0:
                break
            filled += count
        return filled

    def _scan(self, data: memoryview, page: int, *, verify: bool | None = None) -> PageScan:
        return scan_pages(
            data,
            key=self.format.key,
            page_size=self.format.page_size,
            first_block=self.format.first_block + page,
            verify=self.format.verify if verify is None else verify,
        )

    def _judge(
        self, offset: int, data: memoryview, scan: PageScan
    ) -> tuple[PageScan, list[SuspectPage]]:
        first = offset // self.format.page_size
        patient = self.patience.is_left
        for pause in _PAUSES_SECONDS if patient else _PAUSES_SECONDS[:1]:
            if pause:
                self.sleep(pause)
            for bad in scan.failed:
                self._read_again(offset, data, bad)
            scan = self._scan(data, first)
            if all(bad.lsn >= self.format.start_lsn for bad in scan.failed):
                break
        else:
            if patient:
                self.patience.spend()
        return scan, [SuspectPage(first + bad.index, bad.lsn) for bad in scan.failed]

    def _read_again(self, offset: int, data: memoryview, bad: FailedPage) -> None:
        size = self.format.page_size
        start = bad.index * size
        fresh = os.pread(self.handle, size, offset + start)
        if len(fresh) == size:  # else the file was truncated here, and WAL has the rest
            data[start : start + size] = fresh


def hashes_of(run: Run, first: int, last: int) -> bytes:
    """The hashes of pages [first, last) of a run."""
    return run.hashes[first * HASH_SIZE : last * HASH_SIZE]
