"""Stretches of files: what one thread reads in one go, and how they make whole files again.

A stretch may be split while it is read: what is left of it is halved for a thread that has nothing
else to do. So the changed pages of a file meet in few frames, and neighbouring pages of a new one
in one pack, as long as there is other work; and the last large file does not keep one core busy and
the others idle.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.layering import Layers
from pgkeep.backup.parents import Ancestor, Parents
from pgkeep.backup.reader import RUN_BYTES, Patience, SuspectPage
from pgkeep.backup.source import SourceFile
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress

SPLIT_BYTES = 32 << 20
"""What has less left than this is not worth splitting."""
_GLANCE_SECONDS = 0.1


@dataclass(eq=False)
class Stretch:
    """Bytes [start, end) of a file, and what came of them.

    Of a file that a parent has, ``old`` is that, and ``layers`` is shared with the file's others.
    """

    file: SourceFile
    start: int
    end: int
    patience: Patience
    is_successor: bool = False
    old: Ancestor | None = None
    layers: Layers | None = None
    read_to: int = 0
    vanished: bool = False
    frames: list[FrameAddress] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    changes: Any = None
    suspects: list[SuspectPage] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    whole: CopiedFile | None = None
    _claimed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.read_to = self._claimed = self.start

    def claim(self) -> int:
        """The length of the next run to read, from ``read_to``; 0 at the end. For one thread."""
        with self._lock:
            length = min(RUN_BYTES, self.end - self._claimed)
            self._claimed += length
        return length

    @property
    def left(self) -> int:
        """The bytes that nobody has begun to read."""
        return self.end - self._claimed

    def split(self) -> Stretch | None:
        """Give away the second half of what is left; None when it is too little."""
        with self._lock:
            if self.left < SPLIT_BYTES:
                return None
            half = self._claimed + self.left // 2 // RUN_BYTES * RUN_BYTES
            end, self.end = self.end, half
        return Stretch(
            self.file, half, end, self.patience, self.is_successor, self.old, self.layers
        )


@dataclass
class _Gathering:
    """The stretches of one file, until all of them are there."""

    expected: int
    done: list[Stretch] = field(default_factory=list)


class WorkList:
    """Which stretch a thread does next. For many threads.

    ``stretch_bytes`` is the length of a stretch of a file that no parent has.
    """

    def __init__(
        self, files: Sequence[SourceFile], parents: Parents | None, *, stretch_bytes: int
    ) -> None:
        self._parents, self._length = parents, stretch_bytes
        self._gatherings: dict[str, _Gathering] = {}
        self._patience = Patience()
        self._tasks = self._stretches(files)
        self._offered: set[Stretch] = set()
        self._undecided: set[Stretch] = set()
        self._changed = threading.Condition()

    def next(self, stop: threading.Event) -> Stretch | None:
        """A stretch that nobody has begun; None when there is none left, or ``stop`` is set.

        Waits while it may turn out that there is something to share.
        """
        with self._changed:
            while not stop.is_set():
                stretch = next(self._tasks, None)
                if stretch is not None:
                    self._undecided.add(stretch)
                    return stretch
                largest = max(self._offered, key=lambda one: one.left, default=None)
                part = largest.split() if largest is not None else None
                if part is not None:
                    self._gatherings[part.file.path].expected += 1
                    self._offered.add(part)
                    return part
                if not self._undecided:
                    return None
                self._changed.wait(_GLANCE_SECONDS)
        return None

    def offer(self, stretch: Stretch) -> None:
        """It is being read, and what is left of it may be given to another thread."""
        with self._changed:
            self._undecided.discard(stretch)
            if stretch.left >= SPLIT_BYTES:
                self._offered.add(stretch)
            self._changed.notify_all()

    def finish(self, stretch: Stretch) -> list[Stretch] | None:
        """It has been read. Returns all stretches of the file, in order, if it was the last."""
        with self._changed:
            self._undecided.discard(stretch)
            self._offered.discard(stretch)
            self._changed.notify_all()
            gathering = self._gatherings[stretch.file.path]
            gathering.done.append(stretch)
            if len(gathering.done) < gathering.expected:
                return None
            del self._gatherings[stretch.file.path]
        return sorted(gathering.done, key=lambda one: one.start)

    def _stretches(self, files: Sequence[SourceFile]) -> Iterator[Stretch]:
        for file in files:
            is_successor = self._parents is not None and self._parents.knows(file)
            length = max(file.size_bytes, 1) if is_successor else self._length
            starts = range(0, max(file.size_bytes, 1), length)
            patience = Patience(self._patience)
            self._gatherings[file.path] = _Gathering(len(starts))
            for start in starts:
                end = min(start + length, file.size_bytes)
                yield Stretch(file, start, end, patience, is_successor)


def assemble(stretches: list[Stretch], page_size: int) -> CopiedFile | None:
    """A file of which no parent knows, from all its stretches; None when it had vanished."""
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


def _join_hashes(stretches: Sequence[Stretch], pages: int, page_size: int) -> bytes:
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
