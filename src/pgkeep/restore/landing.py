"""Writing the files of a backup, by several threads.

Each worker takes a file (or a part of one, or a bundle of small ones, see ``units.py``), has it
assembled piece by piece and writes the pieces. A piece is large and written past the page cache
where that goes; the CRC-32C of the file is carried along while the bytes are at hand. Decrypting,
decompressing, hashing and writing run in C without the GIL, so Python does a few dozen calls for
each 4 MiB. There are two workers a core, since a direct write waits for the device.

The parts of one file are one worker's as long as there are other files: threads that write into one
file wait for its inode's lock. Who finds nothing else to do takes half of the parts that are left
to whoever has most.

A frame is verified before a byte of it is written: AES-GCM if sealed, zstd's checksum and length
always. Files are made in their full size first, so what is not written stays a hole. Every handle
that was written through is synced while the workers go on (``syncing.py``). Memory is the workers':
a region each, what it is made from, what is fetched ahead (``fetching.py``), and the map block
whose files are being handed out.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack_indexes import PackIndexes
from pgkeep.restore import crc
from pgkeep.restore.assembling import Assembler, Piece, region_pages
from pgkeep.restore.comparing import Comparer
from pgkeep.restore.fetching import FrameSource, Packs
from pgkeep.restore.maps import MapReader
from pgkeep.restore.syncing import Syncer, unwritable
from pgkeep.restore.units import FilePart, Unit, tasks_of
from pgkeep.storage.direct import write_at

_THREADS_PER_JOB = 2
_ZEROS = memoryview(bytes(256 << 10))


class Lander:
    """Writes all files of ``maps`` with ``jobs`` threads.

    ``place`` says where a file goes (an absolute path; the file is made here), by its number in
    ``maps.files``. With ``over`` files may stand there, and what is the same in them stays.
    ``advance`` is told of bytes that are done, holes too, from any thread.
    ``checksums`` and ``written_bytes`` (without holes) say afterwards what was written.
    """

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        maps: MapReader,
        *,
        place: Callable[[int], Path],
        own: Callable[[int], None],
        over: bool = False,
        advance: Callable[[int], None],
    ) -> None:
        self._repository, self._layout = repository, layout
        self._maps, self._place, self._own = maps, place, own
        self._advance, self._over = advance, over
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._cut: set[int] = set()
        self._standing: set[int] = set()
        self.checksums = array("I", bytes(4 * len(maps.files)))
        self.written_bytes = 0

    def land(self, *, jobs: int) -> None:
        """Write everything, durably but for the directories.

        Raises the first error of any worker (``DamagedObject``, ``LocalIOError``, what the store
        raises) after all have stopped.
        """
        threads = jobs * _THREADS_PER_JOB
        with (
            Packs(self._repository, self._layout, workers=threads) as packs,
            Syncer() as syncer,
            closing(self._tasks()) as tasks,
        ):
            shares = _Shares(tasks, threads)
            indexes = self._indexes() if self._over else None

            def work(number: int) -> None:
                worker = _Worker(self, packs, syncer, page_size=self._maps.page_size)
                comparer = self._comparer(indexes) if indexes is not None else None
                try:
                    units = iter(lambda: shares.next(number), None)
                    if comparer is not None:
                        units = (one for all_ in units for one in worker.differing(all_, comparer))
                    unit = next(units, None)
                    while unit is not None:
                        following = next(units, None)
                        ahead = [] if following is None else [following]
                        if comparer is None:  # which does not know before what it will want
                            ahead += shares.rest(number)
                        worker.land(unit, ahead)
                        unit = following
                except BaseException:
                    shares.stop()
                    self._repository.store.stop_waiting()
                    raise

            with ThreadPoolExecutor(threads, thread_name_prefix="restore") as pool:
                # A signal may come while they start, too, and leaving the pool waits for them.
                try:
                    futures = [pool.submit(work, number) for number in range(threads)]
                    wait(futures, return_when=FIRST_EXCEPTION)
                except BaseException:
                    shares.stop()
                    raise
                for future in futures:
                    future.result()

    # -- for workers ------------------------------------------------------------------------------

    def path(self, part: FilePart) -> Path:
        return self._place(part.file)

    def stands(self, part: FilePart) -> None:
        """The file of this part was there before."""
        with self._lock:
            self._standing.add(part.file)

    def is_hole(self, part: FilePart) -> bool:
        """Whether what is not written of the file is zeros."""
        return part.file not in self._standing

    def open(self, part: FilePart, path: Path) -> int:
        """The file, made if nobody has made it yet. Raises ``OSError``."""
        if part.whole:
            return self._make(part, path)
        with self._lock:
            if part.file in self._cut:
                return os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            handle = self._make(part, path)
            self._cut.add(part.file)
            return handle

    def note(self, part: FilePart, *, checksum: int, beyond: int, written_bytes: int) -> None:
        """A part is written; ``beyond`` bytes of the file stand behind it."""
        share = crc.part_of(checksum, beyond)
        with self._lock:
            self.checksums[part.file] ^= share
            self.written_bytes += written_bytes

    def advance(self, size_bytes: int) -> None:
        self._advance(size_bytes)

    # -- inside -----------------------------------------------------------------------------------

    def _tasks(self) -> Generator[list[Unit]]:
        with closing(self._maps.blocks()) as blocks:
            for found in blocks:
                yield from tasks_of(found, region_pages=region_pages(self._maps.page_size))

    def _make(self, part: FilePart, path: Path) -> int:
        mode = self._maps.files[part.file].mode & 0o777
        flags = os.O_WRONLY | os.O_NOFOLLOW
        if part.file in self._standing:
            _let_write(path)
        else:
            flags |= os.O_CREAT | os.O_EXCL
        # Threads that make files in one directory would spin on its inode's lock.
        with self._making:
            handle = os.open(path, flags, mode)
        try:
            os.fchmod(handle, mode)
            self._own(handle)
            os.ftruncate(handle, part.size_bytes)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _indexes(self) -> PackIndexes:
        key = self._repository.keyring.page_hash_key()
        return PackIndexes(self._repository, self._layout, self._maps.packs, key)

    def _comparer(self, indexes: PackIndexes) -> Comparer:
        return Comparer(indexes, indexes.key, page_size=self._maps.page_size)


def _let_write(path: Path) -> None:
    """A file that stands there may forbid its owner to write."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


class _Shares:
    """Who does what: each worker has the units of one task, and helps the others at the end."""

    def __init__(self, tasks: Iterator[list[Unit]], workers: int) -> None:
        self._tasks = tasks
        self._shares: list[deque[Unit]] = [deque() for _ in range(workers)]
        self._lock = threading.Lock()
        self._stopped = False

    def next(self, worker: int) -> Unit | None:
        """The worker's next unit; None when there is none any more, or all shall stop."""
        with self._lock:
            if self._stopped:
                return None
            own = self._shares[worker]
            if not own:
                own.extend(next(self._tasks, ()))
            if not own:
                # Half, so that what is fetched for it is in one piece, too.
                largest = max(self._shares, key=len)
                own.extendleft([largest.pop() for _ in range(-(-len(largest) // 2))])
            return own.popleft() if own else None

    def rest(self, worker: int) -> list[Unit]:
        """What the worker comes to then, as long as nobody else takes it."""
        with self._lock:
            return list(self._shares[worker])

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped = True


class _Worker:
    """One thread's tools, which it uses again for each file."""

    def __init__(self, lander: Lander, packs: Packs, syncer: Syncer, *, page_size: int) -> None:
        self._lander, self._syncer, self._page_size = lander, syncer, page_size
        self._assembler = Assembler(FrameSource(packs), page_size=page_size)

    def differing(self, unit: Unit, comparer: Comparer) -> list[Unit]:
        """What of a unit is to be written; the rest stands there, and is made durable."""
        parts = [one for part in unit.parts for one in self._differing(unit, part, comparer)]
        if unit.bundled:
            return [unit._replace(parts=parts)] if parts else []
        # Each by itself: frames are fetched in the order of one part's pages.
        return [unit._replace(parts=[part]) for part in parts]

    def _differing(self, unit: Unit, part: FilePart, comparer: Comparer) -> list[FilePart]:
        path = self._lander.path(part)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return [part]
        except OSError as error:
            raise unwritable(path, error) from error
        self._lander.stands(part)
        wanted: list[FilePart] = []
        try:
            for start, end, checksum in comparer.regions(unit.frames, part, handle):
                if checksum is not None:
                    self._keep(part, start, end, checksum)
                elif wanted and wanted[-1].end == start:
                    wanted[-1] = wanted[-1]._replace(end=end)
                else:
                    wanted.append(part._replace(start=start, end=end, whole=False))
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            os.close(handle)
        if not wanted:
            self._settle(part, path)
        return wanted

    def _keep(self, part: FilePart, start: int, end: int, checksum: int) -> None:
        end_byte = min(end * self._page_size, part.size_bytes)
        beyond = part.size_bytes - end_byte
        self._lander.note(part, checksum=checksum, beyond=beyond, written_bytes=0)
        self._lander.advance(end_byte - start * self._page_size)

    def _settle(self, part: FilePart, path: Path) -> None:
        """Nothing is written to this part, but length, mode and owner may be others."""
        try:
            handle = self._lander.open(part, path)
        except OSError as error:
            raise unwritable(path, error) from error
        self._syncer.hand_over(handle, path)

    def land(self, unit: Unit, ahead: Sequence[Unit]) -> None:
        """Write the files of ``unit``, while what those ``ahead`` begin with is on its way."""
        self._assembler.begin(unit, ahead)
        for part in unit.parts:
            self._land(part)

    def _land(self, part: FilePart) -> None:
        path = self._lander.path(part)
        try:
            handle = self._lander.open(part, path)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            self._write(part, handle, path)
        except BaseException:
            os.close(handle)
            raise
        self._syncer.hand_over(handle, path)

    def _write(self, part: FilePart, handle: int, path: Path) -> None:
        checksum, written = 0, 0
        for piece in self._assembler.pieces(part):
            if piece.data is None:
                checksum = crc.with_zeros(checksum, piece.length)
                if not self._lander.is_hole(part):
                    self._write_zeros(piece, handle, path)
            else:
                try:
                    write_at(handle, piece.data, piece.offset)
                except OSError as error:
                    raise unwritable(path, error) from error
                checksum = crc.crc32c(piece.data, checksum)
                written += piece.length
            self._lander.advance(piece.length)
        beyond = part.size_bytes - min(part.end * self._page_size, part.size_bytes)
        self._lander.note(part, checksum=checksum, beyond=beyond, written_bytes=written)

    def _write_zeros(self, piece: Piece, handle: int, path: Path) -> None:
        try:
            for start in range(0, piece.length, len(_ZEROS)):
                part = _ZEROS[: piece.length - start]
                write_at(handle, part, piece.offset + start)
        except OSError as error:
            raise unwritable(path, error) from error
