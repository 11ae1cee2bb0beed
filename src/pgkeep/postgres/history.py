"""Timeline history files: which timelines lead to this one, and where each was left.

``00000003.history`` has a line for every ancestor, oldest first: its number, the position
where its child forked off, and a reason for people. The format and its checks are those of
``readTimeLineHistory`` in ``src/backend/access/transam/timeline.c``: comments and empty lines
are skipped, numbers ascend, the child's own is the highest. We are stricter in one thing:
PostgreSQL reads with ``sscanf``, which lets a number wrap around or begin with a sign.

Switch points need *not* ascend, and PostgreSQL does not ask for it: who recovers on timeline 2
to a moment before timeline 2 began gets a timeline 3 whose file still names 2 as the parent,
left before it was entered. Such a parent contributes nothing, and its own parent ends where
the child begins. So the file's numbers are clipped here, once, and the methods answer from
the clipped list.
"""

from __future__ import annotations

from typing import NamedTuple

from pgkeep.errors import BrokenServerFile
from pgkeep.postgres.lsn import Lsn, Timeline


class Ancestor(NamedTuple):
    """The stretch [begin, end) of a timeline's past; ``end`` is None for the timeline itself."""

    timeline: Timeline
    begin: Lsn
    end: Lsn | None


class TimelineHistory(NamedTuple):
    """The past of ``timeline``: contiguous stretches from position zero, oldest first.

    The last of ``ancestors`` is the timeline itself, which has no end.
    """

    timeline: Timeline
    ancestors: tuple[Ancestor, ...]

    @classmethod
    def of_first(cls, timeline: int = 1) -> TimelineHistory:
        """The history of a timeline that has no ancestors, as timeline 1 always is."""
        own = Timeline(timeline)
        return cls(own, (Ancestor(own, Lsn(0), None),))

    def contains(self, timeline: int, lsn: int) -> bool:
        """Whether WAL of ``timeline`` that ends at ``lsn`` lies on the way to this timeline.

        The switch point itself counts for both sides: up to there the bytes are the parent's.
        """
        for ancestor in self.ancestors:
            if ancestor.timeline == timeline:
                return ancestor.begin <= lsn and (ancestor.end is None or lsn <= ancestor.end)
        return False

    def switch_point(self, timeline: int) -> Lsn | None:
        """Where this history leaves ``timeline``; None for the timeline itself.

        Raises KeyError for a timeline that contributes nothing to this history.
        """
        for ancestor in self.ancestors:
            if ancestor.timeline == timeline:
                return ancestor.end
        raise KeyError(timeline)

    def timeline_at(self, lsn: int) -> Timeline:
        """``tliOfPointInHistory``: the timeline that wrote the byte at ``lsn``."""
        for ancestor in self.ancestors:
            if ancestor.end is None or lsn < ancestor.end:
                return ancestor.timeline
        raise AssertionError("the last stretch has no end")


def parse_history(data: bytes, timeline: int) -> TimelineHistory:
    """Read the content of ``<timeline>.history``; empty content means no ancestors.

    Raises BrokenServerFile wherever the server would refuse to start from the file.
    """
    own = Timeline(timeline)
    entries: list[tuple[Timeline, Lsn]] = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _parse_line(line, number, own)
        if entries and entry[0] <= entries[-1][0]:
            raise _broken(own, number, "Timelines must be in increasing sequence.")
        entries.append(entry)
    if entries and entries[-1][0] >= own:
        raise _broken(own, None, "Ancestors must have lower numbers than the timeline itself.")
    return TimelineHistory(own, _clip(entries, own))


def _parse_line(line: str, number: int, own: Timeline) -> tuple[Timeline, Lsn]:
    fields = line.split(None, 2)
    if not (fields[0].isascii() and fields[0].isdigit()):
        raise _broken(own, number, "Expected a numeric timeline.")
    try:
        parent = Timeline(int(fields[0]))
    except ValueError as error:
        raise _broken(own, number, f"Expected a numeric timeline: {error}.") from error
    try:
        return parent, Lsn.parse(fields[1])
    except (IndexError, ValueError) as error:
        raise _broken(own, number, "Expected the position where the timeline was left.") from error


def _clip(entries: list[tuple[Timeline, Lsn]], own: Timeline) -> tuple[Ancestor, ...]:
    stretches: list[Ancestor] = []
    begin = Lsn(0)
    for index, (timeline, _) in enumerate(entries):
        end = min(switch for _, switch in entries[index:])
        if end > begin:
            stretches.append(Ancestor(timeline, begin, end))
            begin = end
    return (*stretches, Ancestor(own, begin, None))


def _broken(own: Timeline, line: int | None, why: str) -> BrokenServerFile:
    where = "" if line is None else f" in line {line}"
    return BrokenServerFile(
        f"The history file of timeline {int(own)} cannot be read{where}.",
        why=why,
        remedy="Compare it with the copy in pg_wal of the primary or of a standby; the server "
        "would not recover with this one either.",
        timeline=int(own),
    )
