"""The stored WAL from a backup's start along one timeline's history, as far as it goes."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import history_name, segment_name, segment_number
from pgkeep.repository.wal_inventory import WalInventory
from pgkeep.repository.wal_plan import SegmentRange, WalPlan
from pgkeep.restore.search import Segment


class Hole(NamedTuple):
    """Segments that are missing although WAL beyond them is stored, or must have existed."""

    first: Segment
    last: Segment

    @property
    def size(self) -> int:
        return self.last.number - self.first.number + 1


class Way:
    """Segments from ``start`` on along a history; ``segments`` are those before the first hole.

    The segment in which a timeline was left counts as its child's.
    """

    def __init__(self, inventory: WalInventory, history: TimelineHistory, start: Lsn) -> None:
        self.history = history
        self.segment_size = inventory.segment_size
        self.segments: list[Segment] = []
        self.hole: Hole | None = None
        stretches = inventory.path(history, start)
        for timeline, first, last in stretches:
            end = inventory.run_end(timeline, first)
            if end is None or (last is not None and end < last):
                self._extend(timeline, first, first - 1 if end is None else end)
                break
            self._extend(timeline, first, end if last is None else min(end, last))
        self.hole = self._find_hole(inventory, stretches)

    def number_of(self, lsn: int) -> int:
        """The number of the segment that holds a position."""
        return segment_number(Lsn(lsn), self.segment_size)

    def index_of(self, number: int) -> int | None:
        """Where in ``segments`` the one of this number is."""
        at = number - self.segments[0].number if self.segments else -1
        return at if 0 <= at < len(self.segments) else None

    def from_number(self, number: int) -> list[Segment]:
        """The segments from this number on."""
        if not self.segments:
            return []
        return self.segments[max(0, number - self.segments[0].number) :]

    def plan(self, end: int) -> WalPlan:
        """What a recovery along this way counts on, up to the segment at index ``end``."""
        ranges = []
        start = 0
        for at in range(1, end + 2):
            if at > end or self.segments[at].timeline != self.segments[start].timeline:
                ranges.append(
                    SegmentRange(self.name(self.segments[start]), self.name(self.segments[at - 1]))
                )
                start = at
        own = self.history.timeline
        return WalPlan(
            tuple(ranges), (history_name(own),) if len(self.history.ancestors) > 1 else ()
        )

    def name(self, segment: Segment) -> str:
        return segment_name(segment.timeline, segment.number, self.segment_size)

    def _extend(self, timeline: int, first: int, last: int) -> None:
        self.segments += [Segment(timeline, number) for number in range(first, last + 1)]

    def _find_hole(
        self, inventory: WalInventory, stretches: list[tuple[int, int, int | None]]
    ) -> Hole | None:
        reached = self.segments[-1].number if self.segments else stretches[0][1] - 1
        for timeline, first, last in stretches:
            if last is not None and last <= reached:
                continue
            begin = max(first, reached + 1)
            stored = inventory.segments.get(timeline, ())
            at = bisect_left(stored, begin)
            if at < len(stored):
                return Hole(Segment(timeline, begin), Segment(timeline, stored[at] - 1))
            if last is not None:  # left at its end, so all of it existed
                return Hole(Segment(timeline, begin), Segment(timeline, last))
        return None
