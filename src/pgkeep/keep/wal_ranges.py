"""Which WAL is kept. Pure.

From each *base* on (the backups of the window, and those with which it begins) everything on its
timeline and on all that descend from it; of every other backup what it needs to be consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import previous_segment_number, segment_number


class Stretch(NamedTuple):
    """Segments [``first``, ``last``] of a timeline."""

    timeline: int
    first: int
    last: int


class Needed(NamedTuple):
    """``begins`` maps a timeline to the number of the first segment that is kept, with all behind
    it; one that is not in it has no base. ``stretches`` are kept besides."""

    begins: Mapping[int, int]
    stretches: Mapping[int, Sequence[Stretch]]

    def keeps(self, timeline: int, number: int) -> bool:
        begin = self.begins.get(timeline)
        if begin is not None and number >= begin:
            return True
        return any(s.first <= number <= s.last for s in self.stretches.get(timeline, ()))


class WalUser(NamedTuple):
    """A backup as far as its WAL goes."""

    timeline: int
    start_lsn: Lsn
    stop_lsn: Lsn
    is_base: bool


def needed_wal(
    users: Iterable[WalUser],
    histories: Mapping[int, TimelineHistory],
    *,
    timelines: Iterable[int],
    segment_size: int,
) -> Needed:
    """What ``users`` need of the ``timelines`` that have WAL; ``histories`` are the known ones.

    A timeline whose history is not known is kept whole.
    """
    stretches: dict[int, list[Stretch]] = {}
    bases = []
    for user in users:
        first = segment_number(user.start_lsn, segment_size)
        last = previous_segment_number(user.stop_lsn, segment_size)
        stretches.setdefault(user.timeline, []).append(Stretch(user.timeline, first, last))
        if user.is_base:
            bases.append((user.timeline, first, user.stop_lsn))
    begins: dict[int, int] = {}
    for timeline in timelines:
        history = TimelineHistory.of_first() if timeline == 1 else histories.get(timeline)
        if history is None:
            begins[timeline] = 0
            continue
        for base, first, stop in bases:
            if base == timeline:
                begins[timeline] = min(first, begins.get(timeline, first))
            elif history.contains(base, stop):
                begins[timeline] = 0
    return Needed(begins, stretches)
