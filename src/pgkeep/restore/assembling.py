"""Putting a file together, region after region, in memory, so that it is written in large pieces.

What increments hold is scattered: a frame of theirs has a hundred pages of as many places. Written
one by one they would cost a system call and a page of cache each. Here they are copied into a
region of 4 MiB while it is in memory, and the region is written at once, past the page cache; so a
backup of many increments is written exactly as a full one is.

Each frame is opened in one of two ways. One whose live pages stand in the file as they stand in it
is opened right where it belongs, oldest first, since pages of it that a later backup replaced land
there as well. Where that would spoil a page all the same (the dead pages of an increment's frame
may come from anywhere in the file, and the order of frames is a claim of the map), the spoilt frame
is opened the second way: apart, its live pages copied to their places after all frames of the first
kind. A frame whose pages lie in this region and beyond is held meanwhile, for it is neither fetched
nor opened twice. Only when a file has more such frames than a bound on memory allows, some are read
again for each region.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pgkeep.restore.fetching import FrameSource
from pgkeep.restore.holding import HeldFrames
from pgkeep.restore.units import FilePart, Frames, Unit
from pgkeep.storage.direct import BLOCK_BYTES, aligned_buffer
from pgkeep.storage.interface import Buffer

REGION_BYTES = 4 << 20
HOLE_BYTES = 64 << 10
"""Zeros of at least this length, between whole blocks, are left out; the file is sparse there."""

NO_FRAME = -1
"""In place of a frame: the page is zeros."""


class Piece(NamedTuple):
    """``length`` bytes of a file from ``offset``; without ``data`` they are zeros that need not be
    written. ``data`` holds until the next piece is asked for."""

    offset: int
    length: int
    data: memoryview | None


class Assembler:
    """One worker's table: the region in the making, and the frames that are held."""

    def __init__(self, source: FrameSource, *, page_size: int) -> None:
        import numpy as np

        self._source, self._page_size = source, page_size
        self._room = memoryview(aligned_buffer(REGION_BYTES))
        self._region_pages = region_pages(page_size)
        self._pages: Any = np.frombuffer(self._room, np.uint8).reshape(-1, page_size)
        self._frames: Frames
        self._held = HeldFrames(page_size=page_size)

    def begin(self, unit: Unit, ahead: Sequence[Unit] = ()) -> None:
        """Turn to another unit, whatever became of the one before; ``ahead`` are those that are
        expected to follow.

        What is held stays for who goes on with the next part of the same file.
        """
        for frame in self._held.frames():
            if unit.frames is not self._frames or unit.frames.end[frame] <= unit.parts[0].start:
                self._held.give_back(self._held.take(frame))
        self._frames = unit.frames
        self._source.begin(unit, ahead)

    def pieces(self, part: FilePart) -> Iterator[Piece]:
        """The bytes of a part of the unit's files, ascending, without a gap.

        Raises ``DamagedObject`` before anything is handed out that a damaged frame has to do with.
        """
        size = self._page_size
        end_byte = min(part.end * size, part.size_bytes)
        at = part.start
        while at < part.end:
            data = _next_data(part, at)
            # Of a long hole only what is in one region with data is ever put together.
            skipped = (data - at) // self._region_pages * self._region_pages
            beyond = part.end if data == part.end else at + skipped
            if beyond > at:
                yield Piece(at * size, min(beyond * size, end_byte) - at * size, None)
            else:
                beyond = min(at + self._region_pages, part.end)
                yield from self._region(part, at, beyond)
            at = beyond

    # -- the region -------------------------------------------------------------------------------

    def _region(self, part: FilePart, start: int, end: int) -> Iterator[Piece]:
        """Pages [start, end) of a file, put together."""
        offset = start * self._page_size
        length = min(end * self._page_size, part.size_bytes) - offset
        if self._is_one_frame(part, start, end):
            yield Piece(offset, length, self._room[:length])
        else:
            yield from self._cut(self._fill(part, start, end), offset, length)

    def _is_one_frame(self, part: FilePart, start: int, end: int) -> bool:
        """Whether a single frame made up [start, end), as it does most small files."""
        row = _row_from(part, start)
        first, pages = int(part.first[row]), int(part.pages[row])
        frame = int(part.frame[row])
        at = int(self._frames.shift[frame]) - start
        fits = at >= 0 and at + int(self._frames.pages[frame]) <= self._region_pages
        if first > start or first + pages < end or not fits:
            return False
        for _, stored in self._source.stored([frame]):
            self._open_at(frame, stored, at)
        return True

    def _open_at(self, frame: int, stored: Buffer, page: int) -> None:
        at = page * self._page_size
        self._source.open_into(frame, stored, self._room[at : at + self._frames.plain[frame]])

    def _fill(self, part: FilePart, start: int, end: int) -> Any:
        """Put all live pages of [start, end) into the region; returns the frame of each page."""
        owner, inside = by_page(part, start, end)
        present = distinct(owner)
        direct = self._direct(present, owner, start)
        held = [frame for frame in present if frame in self._held]
        apart = [frame for frame in present if frame not in direct and frame not in self._held]
        for frame, stored in self._source.stored([*direct, *apart]):
            if frame in direct:
                self._open_at(frame, stored, int(self._frames.shift[frame]) - start)
                continue
            pages = self._held.room_for(int(self._frames.pages[frame]))
            flat = memoryview(pages).cast("B")
            self._source.open_into(frame, stored, flat[: self._frames.plain[frame]])
            self._place(frame, pages, owner=owner, inside=inside, end=end)
        for frame in held:
            self._place(frame, self._held.take(frame), owner=owner, inside=inside, end=end)
        return owner

    def _direct(self, present: list[int], owner: Any, start: int) -> dict[int, None]:
        """The frames that can be opened where they belong, oldest first."""
        import numpy as np

        frames, room = self._frames, self._region_pages
        places = [
            (frame, int(frames.shift[frame]) - start, int(frames.pages[frame])) for frame in present
        ]
        fitting = [place for place in places if place[1] >= 0 and place[1] + place[2] <= room]
        if len(fitting) > 1:
            last = np.full(room, NO_FRAME)
            for frame, at, count in fitting:
                last[at : at + count] = frame
            can = np.zeros(len(frames.number) + 1, dtype=bool)
            can[[frame for frame, _, _ in fitting]] = True
            spoilt = set(owner[can[owner] & (last[: len(owner)] != owner)].tolist())
            fitting = [place for place in fitting if place[0] not in spoilt]
        return {frame: None for frame, _, _ in fitting}

    def _place(self, frame: int, pages: Any, *, owner: Any, inside: Any, end: int) -> None:
        """Copy the live pages of a frame into the region, and hold it for those behind it."""
        to = (owner == frame).nonzero()[0]
        self._pages[to] = pages[inside[to]]
        if self._frames.end[frame] > end:
            self._held.hold(frame, pages)
        else:
            self._held.give_back(pages)

    # -- zeros ------------------------------------------------------------------------------------

    def _cut(self, owner: Any, offset: int, length: int) -> Iterator[Piece]:
        """The region as what is to be written and what is not; its zeros are made so."""
        done = 0
        for start, end in _runs_of_zeros(owner):
            start, end = start * self._page_size, min(end * self._page_size, length)
            first = -(-start // BLOCK_BYTES) * BLOCK_BYTES
            last = end if end == length else end // BLOCK_BYTES * BLOCK_BYTES
            if last - first < HOLE_BYTES:
                first = last = end
            self._clear(start, first)
            self._clear(last, end)
            if first < last:
                yield from self._data(offset, done, first)
                yield Piece(offset + first, last - first, None)
                done = last
        yield from self._data(offset, done, length)

    def _data(self, offset: int, start: int, end: int) -> Iterator[Piece]:
        if start < end:
            yield Piece(offset + start, end - start, self._room[start:end])

    def _clear(self, start: int, end: int) -> None:
        self._room[start:end] = bytes(end - start)


def region_pages(page_size: int) -> int:
    """How many pages a region has; a page's size is a power of two, at most 64 KiB."""
    return REGION_BYTES // page_size


def _row_from(part: FilePart, page: int) -> int:
    """The first extent that reaches beyond ``page``."""
    row = int(part.first.searchsorted(page, side="right"))
    return row - 1 if row and part.first[row - 1] + part.pages[row - 1] > page else row


def _next_data(part: FilePart, page: int) -> int:
    """The first page from ``page`` on that is in a frame; the part's end if there is none."""
    row = _row_from(part, page)
    return min(max(int(part.first[row]), page), part.end) if row < len(part.first) else part.end


def by_page(part: FilePart, start: int, end: int) -> tuple[Any, Any]:
    """For each page of [start, end) its frame, and its place in that."""
    import numpy as np

    owner = np.full(end - start, NO_FRAME)
    inside = np.zeros(end - start, dtype=np.int64)
    rows = slice(_row_from(part, start), int(part.first.searchsorted(end)))
    first = np.maximum(part.first[rows], start)
    counts = np.minimum(part.first[rows] + part.pages[rows], end) - first
    before = np.cumsum(counts) - counts
    steps = np.arange(int(counts.sum()))
    pages = steps + np.repeat(first - start - before, counts)
    owner[pages] = np.repeat(part.frame[rows], counts)
    inside[pages] = steps + np.repeat(part.inside[rows] + first - part.first[rows] - before, counts)
    return owner, inside


def distinct(owner: Any) -> list[int]:
    """The frames that :func:`by_page` found."""
    import numpy as np

    found: list[int] = np.unique(owner).tolist()
    return found[1:] if found[0] == NO_FRAME else found


def _runs_of_zeros(owner: Any) -> list[tuple[int, int]]:
    """[start, end) of the pages that are in no frame."""
    import numpy as np

    zeros = np.concatenate(([False], owner == NO_FRAME, [False]))
    edges = np.flatnonzero(zeros[1:] != zeros[:-1]).reshape(-1, 2)
    return [(start, end) for start, end in edges.tolist()]
