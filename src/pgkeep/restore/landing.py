"""Writing the files: packs are read front to back, and each frame's pages go where they belong.

The unit of work is a stretch of one pack of up to 8 MiB, read at once. Each worker has a share of
its own, far from the others', and helps with the largest that is left when it is done: packs that
were written one after the other hold pieces of the same file, and two threads that write into one
file spin on its inode's lock. So a pack is read once whatever files it serves, the workers finish
together, and memory is a few stretches. For each frame Python does a dozen calls; decrypting,
decompressing and writing run in C without the GIL. (Tried: one task a pack, which leaves a core
idle for the last of them; whole packs in memory, which brings nothing on a local disk.)

A frame is verified before a byte of it is written: AES-GCM if sealed, zstd's checksum and length
always. Files are made in their full size first, so pages that are all zeros stay holes. A
file is synced when its last piece is written, while the workers go on (``syncing.py``).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.restore import crc
from pgkeep.restore.placement import Placement, Placements
from pgkeep.restore.syncing import Syncer, unwritable
from pgkeep.seal.envelope import DATA, MAX_FRAME, PREFIX_SIZE, FrameOpener, Scratch, damaged
from pgkeep.storage.direct import aligned_buffer, write_at

STRETCH_BYTES = 8 << 20
FRAME_BYTES = 1 << 20
_THREADS_PER_JOB = 2
_GAP_BYTES = 256 << 10


class Stretch(NamedTuple):
    """Placements [start, end) come from one read of a pack."""

    pack: int
    start: int
    end: int
    offset: int
    length: int


class Lander:
    """Writes all files of a backup with ``jobs`` threads.

    ``place`` says where a file goes (an absolute path; the file is made here). ``advance`` is told
    of written bytes, from any thread.
    """

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        placements: Placements,
        *,
        place: Callable[[int], Path],
        own: Callable[[int], None],
        advance: Callable[[int], None],
    ) -> None:
        import numpy as np

        self._repository, self._layout = repository, layout
        self._all, self._place, self._own = placements, place, own
        self._advance = advance
        self._openers: dict[int, FrameOpener] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._left: Any = np.bincount(placements.columns[5], minlength=len(placements.files))
        self._checksums: Any = np.zeros(len(placements), dtype=np.uint32)
        self._lengths: Any = np.zeros(len(placements), dtype=np.int64)

    def land(self, *, jobs: int) -> None:
        """Write everything, durably but for the directories.

        Raises the first error of any worker (``DamagedObject``, ``LocalIOError``, what the store
        raises) after all have stopped.
        """
        with Syncer() as syncer:
            self._make_files(syncer)
            self._land(syncer, jobs)

    def _land(self, syncer: Syncer, jobs: int) -> None:
        threads = jobs * _THREADS_PER_JOB
        shares = _shares(list(self._stretches()), threads)

        def work(number: int) -> None:
            worker = _Worker(self, syncer)
            try:
                while (stretch := self._next(shares, number)) is not None:
                    worker.land(stretch)
            except BaseException:
                self._stop.set()
                raise
            finally:
                worker.close()

        with ThreadPoolExecutor(threads, thread_name_prefix="restore") as pool:
            futures = [pool.submit(work, number) for number in range(threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._stop.set()
                raise
            for future in futures:
                future.result()

    def checksums(self) -> dict[int, int]:
        """The CRC-32C of each file, by its number; to be asked when all is written."""
        size = self._all.page_size
        files = self._all.files
        found = {number: crc.zeros(file.size_bytes) for number, file in enumerate(files)}
        first = self._all.columns[6]
        for number, indexes in self._all.of_files():
            pieces = (
                (int(first[i]) * size, int(self._lengths[i]), int(self._checksums[i]))
                for i in indexes
            )
            found[number] = crc.of_file(pieces, files[number].size_bytes)
        return found

    # -- for workers ------------------------------------------------------------------------------

    def key(self, pack: int) -> str:
        return self._all.packs[pack].key(self._layout)

    def read(self, stretch: Stretch) -> bytes:
        key = self.key(stretch.pack)
        data = self._repository.store.get_range(key, stretch.offset, stretch.length)
        if len(data) != stretch.length:
            raise damaged(key, f"it ends before byte {stretch.offset + stretch.length}")
        return data

    def opener(self, pack: int) -> FrameOpener:
        opener = self._openers.get(pack)
        if opener is None:
            info = self._all.packs[pack]
            opener = info.opener(self._repository.keyring, self._layout)
            self._openers[pack] = opener
        return opener

    def rows(self, stretch: Stretch) -> list[Placement]:
        return self._all.rows(stretch.start, stretch.end)

    def size_of(self, file: int) -> int:
        return self._all.files[file].size_bytes

    @property
    def page_size(self) -> int:
        return self._all.page_size

    def path(self, file: int) -> Path:
        return self._place(file)

    def note(self, index: int, data: memoryview) -> None:
        self._checksums[index] = crc.crc32c(data)
        self._lengths[index] = len(data)
        self._advance(len(data))

    def is_last(self, file: int) -> bool:
        """Count one placement of a file as written; whether it was the last."""
        with self._lock:
            self._left[file] -= 1
            return bool(self._left[file] == 0)

    # -- inside -----------------------------------------------------------------------------------

    def _make_files(self, syncer: Syncer) -> None:
        for number, file in enumerate(self._all.files):
            path = self._place(number)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                handle = os.open(path, flags, file.mode & 0o777)
                try:
                    os.fchmod(handle, file.mode & 0o777)
                    self._own(handle)
                    os.ftruncate(handle, file.size_bytes)
                    if not self._left[number]:
                        syncer.hand_over(os.dup(handle), path)
                finally:
                    os.close(handle)
            except OSError as error:
                raise unwritable(path, error) from error

    def _next(self, shares: list[deque[Stretch]], number: int) -> Stretch | None:
        with self._lock:
            if self._stop.is_set():
                return None
            if shares[number]:
                return shares[number].popleft()
            largest = max(shares, key=len)
            return largest.pop() if largest else None

    def _stretches(self) -> Iterator[Stretch]:
        """Cut the ordered placements where the pack changes, a gap is wide, or 8 MiB are full."""
        pack, offset, stored = (self._all.columns[i].tolist() for i in (0, 2, 3))
        start = 0
        for at in range(1, len(pack) + 1):
            begin = offset[start]
            if at < len(pack) and pack[at] == pack[start]:
                end = offset[at] + PREFIX_SIZE + stored[at]
                gap = offset[at] - (offset[at - 1] + PREFIX_SIZE + stored[at - 1])
                same = offset[at] == offset[at - 1]
                if same or (end - begin <= STRETCH_BYTES and gap <= _GAP_BYTES):
                    continue
            end = offset[at - 1] + PREFIX_SIZE + stored[at - 1]
            yield Stretch(pack[start], start, at, begin, end - begin)
            start = at


def _shares(stretches: list[Stretch], jobs: int) -> list[deque[Stretch]]:
    """One run of neighbours for each worker."""
    each = -(-len(stretches) // jobs)
    return [deque(stretches[number * each : (number + 1) * each]) for number in range(jobs)]


class _Worker:
    """One thread's share; keeps the file that it wrote to last open."""

    def __init__(self, lander: Lander, syncer: Syncer) -> None:
        self._lander, self._syncer = lander, syncer
        self._file = -1
        self._handle = -1
        self._scratch = Scratch()
        self._room = memoryview(aligned_buffer(FRAME_BYTES))

    def land(self, stretch: Stretch) -> None:
        lander = self._lander
        opener = lander.opener(stretch.pack)
        data = memoryview(lander.read(stretch))
        plain, opened = memoryview(b""), -1
        for index, row in enumerate(lander.rows(stretch), stretch.start):
            if row.number != opened:
                begin = row.offset - stretch.offset + PREFIX_SIZE
                packed = data[begin : begin + row.stored]
                plain = self._room_for(row)
                opener.open_into(packed, plain, number=row.number, kind=DATA, scratch=self._scratch)
                opened = row.number
            self._write(index, row, plain)

    def _room_for(self, row: Placement) -> memoryview:
        if row.plain > len(self._room):
            if row.plain > MAX_FRAME:
                key = self._lander.key(row.pack)
                raise damaged(key, f"frame {row.number} announces an impossible size")
            self._room = memoryview(aligned_buffer(row.plain))
        return self._room[: row.plain]

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = self._file = -1

    def _write(self, index: int, row: Placement, plain: memoryview) -> None:
        size = self._lander.page_size
        target = row.first * size
        start = row.inside * size
        length = min(row.pages * size, self._lander.size_of(row.file) - target)
        piece = plain[start : start + length]
        try:
            if row.file != self._file:
                self.close()
                self._handle = os.open(self._lander.path(row.file), os.O_WRONLY | os.O_NOFOLLOW)
                self._file = row.file
            write_at(self._handle, piece, target)
            if self._lander.is_last(row.file):
                handle, self._handle, self._file = self._handle, -1, -1
                self._syncer.hand_over(handle, self._lander.path(row.file))
        except OSError as error:
            raise unwritable(self._lander.path(row.file), error) from error
        self._lander.note(index, piece)
