"""Copying files into packs, by several threads, and assembling the maps.

Large files are cut into stretches so that all workers have something to do until the end; the
pieces of one file meet again in a ``FileMap``. Python's part is a few dozen calls for each
megabyte: reading, page work, zstd and AES-GCM run in C without the GIL.

A file that a parent has (``parents.py``) is one stretch, so that its changed pages meet in as few
frames as possible, until a thread has nothing else to do and takes over half of what is left.
Only those pages are stored, and its map is the parent's with them elsewhere (``succession.py``).
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
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pgkeep.backup.changes import ChangedPages, RunStore, WholeRuns
from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.layering import Layers
from pgkeep.backup.packing import PackFiller, PackStream
from pgkeep.backup.parents import Ancestor, Parents
from pgkeep.backup.reader import RUN_BYTES, PageFormat, RunReader
from pgkeep.backup.source import SourceFile
from pgkeep.backup.stretches import Stretch, WorkList, assemble
from pgkeep.backup.succession import Succession
from pgkeep.backup.throttle import RateLimit
from pgkeep.errors import LocalIOError
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.relation import parse_relation_path

STRETCH_BYTES = 256 << 20
"""Neighbouring pages are in one pack for so long, so that a restore asks for much of it at once."""
_KEEPALIVE_SECONDS = 15.0
LAYERED_BYTES = 8 << 20
"""In smaller files a second look costs nothing."""


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


class _Worker(NamedTuple):
    """What one thread has for itself: a way into the stream, and two buffers of 1 MiB."""

    filler: PackFiller
    buffers: tuple[memoryview, memoryview]


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
        self._one_at_a_time = threading.Lock()

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
        work_list = WorkList(list(files), self._parents, stretch_bytes=STRETCH_BYTES)

        def work() -> None:
            worker = _Worker(
                self._stream.open(),
                (memoryview(bytearray(RUN_BYTES)), memoryview(bytearray(RUN_BYTES))),
            )
            try:
                while (stretch := work_list.next(self._stop)) is not None:
                    self._copy_stretch(stretch, worker, work_list)
                    stretches = work_list.finish(stretch)
                    if stretches is not None and not self._stop.is_set():
                        self._hand_over(stretches, worker, done)
                if not self._stop.is_set():
                    worker.filler.flush()
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

    def _copy_stretch(self, stretch: Stretch, worker: _Worker, work_list: WorkList) -> None:
        file = stretch.file
        if stretch.is_successor and stretch.old is None and self._parents is not None:
            stretch.old = self._parents.find(file)
        old = stretch.old
        if old is not None and old.is_unread:
            stretch.whole = CopiedFile(file, old.map, (), old.hashes, old.place, was_read=False)
            self._listener.advance(file.size_bytes)
            return
        with self._opened(stretch, worker) as reader:
            if reader is None:
                stretch.vanished = True
            elif old is None:
                work_list.offer(stretch)
                whole = WholeRuns(worker.filler, self._format.page_size)
                self._read(stretch, reader, whole)
                stretch.frames, stretch.extents = whole.frames, whole.extents
            else:
                if stretch.layers is None and file.size_bytes >= LAYERED_BYTES:
                    size = self._format.page_size
                    pages = -(-file.size_bytes // size)
                    stretch.layers = Layers(old.rows, pages=pages, page_size=size)
                work_list.offer(stretch)
                changes = self._changed_pages(stretch, worker, old)
                self._read(stretch, reader, changes)
                stretch.frames, stretch.changes = changes.frames, changes.changes()

    def _changed_pages(self, stretch: Stretch, worker: _Worker, old: Ancestor) -> ChangedPages:
        return ChangedPages(
            worker.filler,
            self._format.page_size,
            old=old.hashes,
            forced=old.forced,
            room=worker.buffers[1],
            layers=stretch.layers,
        )

    def _read(self, stretch: Stretch, reader: RunReader, store: RunStore) -> None:
        while not self._stop.is_set() and (length := stretch.claim()):
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

    def _hand_over(
        self, stretches: list[Stretch], worker: _Worker, done: Callable[[CopiedFile], None]
    ) -> None:
        """A file of which all stretches are there."""
        first = stretches[0]
        if first.whole is not None or first.old is None or first.vanished:
            copied = first.whole or assemble(stretches, self._format.page_size)
        else:
            with self._opened(first, worker) as reader:
                succession = Succession(worker.filler, worker.buffers[1], self._format.page_size)
                copied = succession.succeed(stretches, first.old, reader)
        if copied is not None:
            with self._one_at_a_time:
                done(copied)

    @contextmanager
    def _opened(self, stretch: Stretch, worker: _Worker) -> Iterator[RunReader | None]:
        """A reader of the file, as one thread needs it; None if there is no file any more."""
        file = stretch.file
        try:
            handle = os.open(file.place, os.O_RDONLY)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise _unreadable(file, error) from error
        try:
            page_format = self._format.of(file)
            yield RunReader(handle, worker.buffers[0], page_format, stretch.patience)
        except OSError as error:
            raise _unreadable(file, error) from error
        finally:
            os.close(handle)


def _unreadable(file: SourceFile, error: OSError) -> LocalIOError:
    return LocalIOError(
        f"{file.place} cannot be read.",
        why=f"{error.strerror}.",
        remedy="If the disk reports errors, move the cluster off it first; "
        "the last good backup stays untouched.",
        path=file.place,
    )
