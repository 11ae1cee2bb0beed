"""Copying files into packs, by several threads, and assembling the maps.

Large files are cut into stretches so that all workers have something to do until the end; the
pieces of one file meet again in a ``FileMap``. Python's part is a few dozen calls for each
megabyte: reading, page work, zstd and AES-GCM run in C without the GIL.

A file that a parent has (``parents.py``) is one stretch, so that its changed pages meet in as few
frames as possible; only those are stored, and its map is the parent's with these pages elsewhere.
What is provably as it was is not even read.

Files change while we read, which is fine as long as WAL has the changes. A file that vanished
was dropped. A file that shrank ends where the reading ended. What grew beyond the size at the
walk was written after the backup began, so WAL has it. Where one stretch ended short and a
later one did not, the file was truncated and extended meanwhile: zeros stand between, as in any
copy, from the last whole page on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pgkeep.backup.changes import ChangedPages, RunStore, WholeRuns
from pgkeep.backup.layering import pages_to_store_again
from pgkeep.backup.packing import PackFiller, PackStream
from pgkeep.backup.parents import Ancestor, MapPlace, Parents
from pgkeep.backup.reader import RUN_BYTES, PageFormat, Patience, RunReader, SuspectPage
from pgkeep.backup.source import SourceFile
from pgkeep.backup.throttle import RateLimit
from pgkeep.errors import LocalIOError
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.postgres.relation import parse_relation_path
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress
from pgkeep.repository.map_rows import MapRows, overlay

STRETCH_BYTES = 64 << 20
_KEEPALIVE_SECONDS = 15.0
_NEAR_PAGES = 8


class Listener(Protocol):
    """Who wants to know how far the copy is. Called from worker threads."""

    def advance(self, size_bytes: int) -> None: ...


@dataclass(frozen=True)
class CopyFormat:
    """What holds for the pages of all files of one backup."""

    page_size: int
    key: bytes
    checksums: bool
    relation_segment_blocks: int
    start_lsn: Lsn

    def of(self, file: SourceFile) -> PageFormat:
        relation = parse_relation_path(file.path) if self.checksums else None
        first = relation.first_block(self.relation_segment_blocks) if relation else 0
        return PageFormat(self.page_size, self.key, relation is not None, first, self.start_lsn)


class CopiedFile(NamedTuple):
    """A file that was read to its end, or need not be.

    ``map`` lacks the failed pages of this run; ``suspects`` may become some. Without a map the
    parent's stands, at ``kept``. ``hashes`` are those of all pages, 8 bytes each, zeros where one
    is not known.
    """

    file: SourceFile
    map: FileMap | MapRows | None
    suspects: tuple[SuspectPage, ...] = ()
    hashes: bytes = b""
    kept: MapPlace | None = None
    was_read: bool = True


@dataclass
class _Stretch:
    """Bytes [start, end) of a file, and what came of them."""

    file: SourceFile
    start: int
    end: int
    patience: Patience
    is_successor: bool = False
    read_to: int = 0
    vanished: bool = False
    frames: list[FrameAddress] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    suspects: list[SuspectPage] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    whole: CopiedFile | None = None


@dataclass
class _Gathering:
    """The stretches of one file, until all of them are there."""

    expected: int
    done: list[_Stretch] = field(default_factory=list)


class Copier:
    """Copies files into a pack stream with ``jobs`` threads."""

    def __init__(
        self,
        stream: PackStream,
        copy_format: CopyFormat,
        *,
        jobs: int,
        rate: RateLimit,
        listener: Listener,
        parents: Parents | None = None,
    ) -> None:
        self._stream, self._format = stream, copy_format
        self._parents = parents
        self._jobs, self._rate, self._listener = jobs, rate, listener
        self._stop = threading.Event()
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._patience = Patience()

    def copy(
        self,
        files: Iterable[SourceFile],
        *,
        done: Callable[[CopiedFile], None],
        keepalive: Callable[[], float | None],
        first: float | None = None,
    ) -> None:
        """Copy all files; ``done`` is called once for each that did not vanish, one at a time.

        ``keepalive`` is called every 15 s from this thread, or after as many seconds as it
        returned, and ``first`` says for its first call. Raises the first error of any worker,
        after all of them have stopped.
        """
        gatherings: dict[str, _Gathering] = {}
        tasks = self._tasks(list(files), gatherings)

        def work() -> None:
            filler = self._stream.open()
            buffers = (memoryview(bytearray(RUN_BYTES)), memoryview(bytearray(RUN_BYTES)))
            try:
                while (stretch := self._next(tasks)) is not None:
                    self._copy_stretch(stretch, filler, buffers)
                    self._finish(stretch, gatherings, done)
                if not self._stop.is_set():
                    filler.flush()
            except BaseException as error:
                self._give_up(error)
                raise

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="copy") as pool:
            # Within the try from the first thread on: a signal may come at any moment, and leaving
            # the pool waits for the threads.
            try:
                pending, pause = {pool.submit(work) for _ in range(self._jobs)}, first
                while pending:
                    seconds = _KEEPALIVE_SECONDS if pause is None else pause
                    finished, pending = wait(pending, timeout=seconds)
                    for future in finished:
                        future.result()
                    pause = keepalive()
            except BaseException as error:
                self._give_up(error)
                raise

    def _give_up(self, error: BaseException) -> None:
        """Let no worker go on, whether it reads, sleeps or waits for a buffer."""
        self._stop.set()
        self._stream.fail(error)
        self._rate.stop()

    def _tasks(
        self, files: list[SourceFile], gatherings: dict[str, _Gathering]
    ) -> Iterator[_Stretch]:
        for file in files:
            is_successor = self._parents is not None and self._parents.knows(file)
            length = max(file.size_bytes, 1) if is_successor else STRETCH_BYTES
            starts = range(0, max(file.size_bytes, 1), length)
            patience = Patience(self._patience)
            with self._lock:
                gatherings[file.path] = _Gathering(len(starts))
            for start in starts:
                end = min(start + length, file.size_bytes)
                yield _Stretch(file, start, end, patience, is_successor)

    def _next(self, tasks: Iterator[_Stretch]) -> _Stretch | None:
        with self._turn:
            return None if self._stop.is_set() else next(tasks, None)

    def _copy_stretch(
        self, stretch: _Stretch, filler: PackFiller, buffers: tuple[memoryview, memoryview]
    ) -> None:
        file, size = stretch.file, self._format.page_size
        old: Ancestor | None = None
        if stretch.is_successor and self._parents is not None:
            old = self._parents.find(file)
        if old is not None and old.is_unread:
            stretch.whole = CopiedFile(file, old.map, (), old.hashes, old.place, was_read=False)
            self._listener.advance(file.size_bytes)
            return
        stretch.read_to = stretch.start
        try:
            handle = os.open(file.place, os.O_RDONLY)
        except FileNotFoundError:
            stretch.vanished = True
            return
        except OSError as error:
            raise _unreadable(file, error) from error
        try:
            reader = RunReader(handle, buffers[0], self._format.of(file), stretch.patience)
            if old is None:
                whole = WholeRuns(filler, size)
                self._read(stretch, reader, whole)
                stretch.frames, stretch.extents = whole.frames, whole.extents
            else:
                changes = ChangedPages(
                    filler, size, old=old.hashes, forced=old.forced, room=buffers[1]
                )
                self._read(stretch, reader, changes)
                if not self._stop.is_set():
                    stretch.whole = self._succeed(stretch, reader, old, changes)
        except OSError as error:
            raise _unreadable(file, error) from error
        finally:
            os.close(handle)

    def _read(self, stretch: _Stretch, reader: RunReader, store: RunStore) -> None:
        while stretch.read_to < stretch.end and not self._stop.is_set():
            length = min(RUN_BYTES, stretch.end - stretch.read_to)
            self._rate.spend(length)
            run = reader.read(stretch.read_to, length)
            if run is None:
                break
            store.add(run)
            stretch.suspects.extend(run.suspects)
            stretch.hashes.append(run.hashes)
            stretch.read_to += len(run.data)
            self._listener.advance(len(run.data))
            if len(run.data) < length:
                break  # it ended here; should it grow again now, then not from a page's start
        store.finish()

    def _succeed(
        self, stretch: _Stretch, reader: RunReader, old: Ancestor, changes: ChangedPages
    ) -> CopiedFile:
        """The file as the parent's successor; what its map would read in vain is stored again."""
        file, size = stretch.file, self._format.page_size
        hashes = b"".join(stretch.hashes)
        changed = changes.changes()
        same = not changed.shape[1] and stretch.read_to == old.rows.size_bytes
        if same and not stretch.suspects and not len(old.rows.failed) and not old.is_moving:
            # It may have been longer when it was looked at.
            found = file._replace(size_bytes=stretch.read_to)
            return CopiedFile(found, None, (), hashes, old.place)
        length = {"size_bytes": stretch.read_to, "page_size": size}
        rows = overlay(old.rows, changes.frames, changed, **length)
        again = pages_to_store_again(rows, page_size=size)
        if len(again):
            store, hashes = self._store_again(stretch, reader, again, hashes, changes)
            rows = overlay(rows, store.frames, store.changes(), **length)
        return CopiedFile(file, rows, tuple(stretch.suspects), hashes)

    def _store_again(
        self,
        stretch: _Stretch,
        reader: RunReader,
        again: Any,
        hashes: bytes,
        changes: ChangedPages,
    ) -> tuple[ChangedPages, bytes]:
        """Store these pages as they are now; returns what was stored, and the hashes of all."""
        size = self._format.page_size
        store = changes.again(old=hashes, pages=again)
        patched = bytearray(hashes)
        for first, last in _spans(again, most=RUN_BYTES // size):
            length = min(last * size, stretch.read_to) - first * size
            run = reader.read(first * size, length)
            if run is None or len(run.data) < length:
                break  # cut off meanwhile, within a page perhaps; what was read before stays
            store.add(run)
            stretch.suspects.extend(run.suspects)
            patched[first * HASH_SIZE : first * HASH_SIZE + len(run.hashes)] = run.hashes
        store.finish()
        return store, bytes(patched)

    def _finish(
        self,
        stretch: _Stretch,
        gatherings: dict[str, _Gathering],
        done: Callable[[CopiedFile], None],
    ) -> None:
        with self._lock:
            gathering = gatherings[stretch.file.path]
            gathering.done.append(stretch)
            if len(gathering.done) < gathering.expected or self._stop.is_set():
                return
            del gatherings[stretch.file.path]
            copied = stretch.whole or _assemble(gathering.done, self._format.page_size)
            if copied is not None:
                done(copied)


def _spans(pages: Any, *, most: int) -> Iterator[tuple[int, int]]:
    """Stretches of at most so many pages, as (first, one past the last), that hold all of these;
    between near ones, reading a few pages in vain costs less than another call."""
    start = end = -1
    for page in pages.tolist():
        if start >= 0 and page <= end + _NEAR_PAGES and page < start + most:
            end = page
            continue
        if start >= 0:
            yield start, end + 1
        start = end = page
    if start >= 0:
        yield start, end + 1


def _assemble(stretches: list[_Stretch], page_size: int) -> CopiedFile | None:
    stretches.sort(key=lambda stretch: stretch.start)
    file = stretches[0].file
    if stretches[0].vanished:
        return None
    size = max(s.read_to if s.read_to > s.start else 0 for s in stretches)
    whole = FileMap(file.path, size)
    suspects: list[SuspectPage] = []
    page = 0
    for stretch in stretches:
        # A last, short page has nothing after it but the end of the file.
        end = stretch.read_to // page_size if stretch.read_to < size else -(-size // page_size)
        for extent in stretch.extents:
            pages = min(extent.pages, end - extent.first)
            if extent.first > page:
                whole.extents.append(Extent(page, extent.first - page, HOLE, 0))
            frame = extent.frame if extent.frame == HOLE else extent.frame + len(whole.frames)
            if pages:
                whole.extents.append(extent._replace(pages=pages, frame=frame))
            page = extent.first + pages
        whole.frames.extend(stretch.frames)
        suspects.extend(stretch.suspects)
    assert page == -(-size // page_size), (file.path, page, size)
    return CopiedFile(file, whole, tuple(suspects), _join_hashes(stretches, page, page_size))


def _join_hashes(stretches: list[_Stretch], pages: int, page_size: int) -> bytes:
    """The hashes of all pages; those of what no stretch has seen are not known."""
    hashes = bytearray(pages * HASH_SIZE)
    for stretch in stretches:
        found = b"".join(stretch.hashes)
        at = stretch.start // page_size * HASH_SIZE
        # A stretch that ended within a page which is followed by others saw another page.
        whole = (stretch.read_to - stretch.start) // page_size * HASH_SIZE
        known = found if at + len(found) == len(hashes) else found[:whole]
        hashes[at : at + len(known)] = known
    return bytes(hashes)


def _unreadable(file: SourceFile, error: OSError) -> LocalIOError:
    return LocalIOError(
        f"{file.place} cannot be read.",
        why=f"{error.strerror}.",
        remedy="If the disk reports errors, move the cluster off it first; "
        "the last good backup stays untouched.",
        path=file.place,
    )
