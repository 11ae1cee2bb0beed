"""Copying files into packs, by several threads, and assembling the maps.

Large files are cut into stretches so that all workers have something to do until the end; the
pieces of one file meet again in a ``FileMap``. Python's part is a few dozen calls for each
megabyte: reading, page work, zstd and AES-GCM run in C without the GIL.

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
from typing import NamedTuple, Protocol

from pgkeep.backup.packing import PackFiller, PackStream
from pgkeep.backup.reader import (
    RUN_BYTES,
    PageFormat,
    Patience,
    Run,
    RunReader,
    SuspectPage,
    hashes_of,
)
from pgkeep.backup.source import SourceFile
from pgkeep.backup.throttle import RateLimit
from pgkeep.errors import LocalIOError
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.relation import parse_relation_path
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress

STRETCH_BYTES = 64 << 20
_HOLE_PAGES = 16
_KEEPALIVE_SECONDS = 15.0


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
    """A file that was read to its end. ``map`` has no failed pages yet; ``suspects`` may become
    some."""

    file: SourceFile
    map: FileMap
    suspects: tuple[SuspectPage, ...]


@dataclass
class _Stretch:
    """Bytes [start, end) of a file, and what came of them."""

    file: SourceFile
    start: int
    end: int
    patience: Patience
    read_to: int = 0
    vanished: bool = False
    frames: list[FrameAddress] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    suspects: list[SuspectPage] = field(default_factory=list)


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
    ) -> None:
        self._stream, self._format = stream, copy_format
        self._jobs, self._rate, self._listener = jobs, rate, listener
        self._stop = threading.Event()
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._patience = Patience()

    def copy(
        self,
        files: Iterable[SourceFile],
        *,
        done: Callable[[CopiedFile], None],
        keepalive: Callable[[], None],
    ) -> None:
        """Copy all files; ``done`` is called once for each that did not vanish, one at a time.

        ``keepalive`` is called every 15 s from this thread. Raises the first error of any worker,
        after all of them have stopped.
        """
        gatherings: dict[str, _Gathering] = {}
        tasks = self._tasks(list(files), gatherings)

        def work() -> None:
            filler, buffer = self._stream.open(), memoryview(bytearray(RUN_BYTES))
            try:
                while (stretch := self._next(tasks)) is not None:
                    self._copy_stretch(stretch, filler, buffer)
                    self._finish(stretch, gatherings, done)
                if not self._stop.is_set():
                    filler.flush()
            except BaseException as error:
                self._give_up(error)
                raise

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="copy") as pool:
            try:
                # An interrupt may come here, too, when the first already work.
                pending = {pool.submit(work) for _ in range(self._jobs)}
                while pending:
                    finished, pending = wait(pending, timeout=_KEEPALIVE_SECONDS)
                    for future in finished:
                        future.result()
                    keepalive()
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
            starts = range(0, max(file.size_bytes, 1), STRETCH_BYTES)
            patience = Patience(self._patience)
            with self._lock:
                gatherings[file.path] = _Gathering(len(starts))
            for start in starts:
                yield _Stretch(file, start, min(start + STRETCH_BYTES, file.size_bytes), patience)

    def _next(self, tasks: Iterator[_Stretch]) -> _Stretch | None:
        with self._turn:
            return None if self._stop.is_set() else next(tasks, None)

    def _copy_stretch(self, stretch: _Stretch, filler: PackFiller, buffer: memoryview) -> None:
        file = stretch.file
        stretch.read_to = stretch.start
        try:
            handle = os.open(file.place, os.O_RDONLY)
        except FileNotFoundError:
            stretch.vanished = True
            return
        except OSError as error:
            raise _unreadable(file, error) from error
        try:
            reader = RunReader(handle, buffer, self._format.of(file), stretch.patience)
            while stretch.read_to < stretch.end and not self._stop.is_set():
                length = min(RUN_BYTES, stretch.end - stretch.read_to)
                self._rate.spend(length)
                run = reader.read(stretch.read_to, length)
                if run is None:
                    break
                self._store(run, stretch, filler)
                stretch.read_to += len(run.data)
                self._listener.advance(len(run.data))
                if len(run.data) < length:
                    break  # it ended here; should it grow again now, then not from a page's start
        except OSError as error:
            raise _unreadable(file, error) from error
        finally:
            os.close(handle)

    def _store(self, run: Run, stretch: _Stretch, filler: PackFiller) -> None:
        size = self._format.page_size
        pages = -(-len(run.data) // size)
        kept = list(_outside_holes(run.zero_runs, pages))
        stretch.suspects.extend(run.suspects)
        page, in_frame = run.offset // size, 0
        for first, last, hole in kept:
            frame = HOLE if hole else len(stretch.frames)
            stretch.extents.append(
                Extent(page + first, last - first, frame, 0 if hole else in_frame)
            )
            in_frame += 0 if hole else last - first
        data = [(first, last) for first, last, hole in kept if not hole]
        if not data:
            return
        if len(data) == 1:
            plain: object = run.data[data[0][0] * size : data[0][1] * size]
        else:
            plain = b"".join(run.data[first * size : last * size] for first, last in data)
        hashes = b"".join(hashes_of(run, first, last) for first, last in data)
        stretch.frames.append(filler.add_data(plain, hashes))

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
            copied = _assemble(gathering.done, self._format.page_size)
            if copied is not None:
                done(copied)


def _outside_holes(
    zero_runs: Iterable[tuple[int, int]], pages: int
) -> Iterator[tuple[int, int, bool]]:
    """Cut [0, pages) into (first, last, is a hole); short zero runs stay with the data.

    A few zero pages compress to nothing; a hole of their own would cost more in the map.
    """
    at = 0
    for first, last in zero_runs:
        if last - first >= _HOLE_PAGES or last - first == pages:
            if first > at:
                yield at, first, False
            yield first, last, True
            at = last
    if at < pages:
        yield at, pages, False


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
    return CopiedFile(file, whole, tuple(suspects))


def _unreadable(file: SourceFile, error: OSError) -> LocalIOError:
    return LocalIOError(
        f"{file.place} cannot be read.",
        why=f"{error.strerror}.",
        remedy="If the disk reports errors, move the cluster off it first; "
        "the last good backup stays untouched.",
        path=file.place,
    )
