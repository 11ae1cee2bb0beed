"""Which WAL a restore needs, written into the restore command that the restore sets.

PostgreSQL takes exit code 1 of a restore command as "the archive ends here" and promotes. For a
file that the restore saw in the repository when it began, that answer is never right: somebody
deleted it, or the store lies. The plan is how ``wal-fetch`` knows. It is text on a command
line, so it is short: inclusive ranges of segments, each on one timeline, and history files::

    0000000100000000000000A1-0000000100000000000000B6,00000002.history,0000000200000000000000B7

It names what must be there, not all that may be asked for: recovery also probes for files that
may not exist (the next timeline's history, the segment after the last).

It also says what must *not* be given. Where a timeline was left, its old server may have gone on
writing; when the younger timeline's file is not there (yet), PostgreSQL falls back to the older
one's of the same number and replays, without a word, what never belonged to the target
(``XLogFileReadAnyTLI`` looks at where a timeline begins, and never at where it was left). So
of an older timeline only what the plan names counts.
"""

from __future__ import annotations

from typing import NamedTuple

from pgkeep.errors import UsageError, WalNotFound
from pgkeep.postgres.wal_name import WalKind, next_segment, parse_wal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


_NO_HISTORY = "00000001.history"


class SegmentRange(NamedTuple):
    """Segments ``first`` to ``last``, both included, of one timeline."""

    first: str
    last: str

    def __contains__(self, name: object) -> bool:
        # Upper-case hexadecimal of fixed width sorts as its value does, whatever the segment size.
        same_shape = isinstance(name, str) and len(name) == 24
        return same_shape and self.first <= str(name) <= self.last

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}-{self.last}"


class WalPlan(NamedTuple):
    """The WAL that a restore counts on. The target's timeline is the highest that it names."""

    ranges: tuple[SegmentRange, ...] = ()
    histories: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> WalPlan:
        """Read a plan as ``str`` writes it. Raises ``UsageError``."""
        ranges: list[SegmentRange] = []
        histories: list[str] = []
        for item in filter(None, text.split(",")):
            if item.endswith(".history"):
                histories.append(_checked(item, WalKind.HISTORY))
            else:
                ranges.append(_range(item))
        return cls(tuple(ranges), tuple(histories))

    def __str__(self) -> str:
        return ",".join((*map(str, self.ranges), *self.histories))

    def names(self, name: str) -> bool:
        """Whether the restore counts on this file."""
        return name in self.histories or any(name in part for part in self.ranges)

    def forbids(self, name: str) -> bool:
        """Whether this segment lies beyond where its timeline was left on the way to the target.

        Recovery must be told that it is absent, even where the repository has it.
        """
        if len(name) != 24 or self.names(name):
            return False
        starts = [part.first[:8] for part in self.ranges] + [own[:8] for own in self.histories]
        return bool(starts) and name[:8] != max(starts)

    def segments(self, segment_size: int) -> Iterator[str]:
        """Every segment of the plan, in the plan's order; ``segment_size`` in bytes."""
        for part in self.ranges:
            name = part.first
            yield name
            while name != part.last:
                name = next_segment(name, segment_size)
                yield name


def _range(item: str) -> SegmentRange:
    first, dash, last = item.partition("-")
    found = SegmentRange(
        _checked(first, WalKind.SEGMENT), _checked(last if dash else first, WalKind.SEGMENT)
    )
    if found.first[:8] != found.last[:8] or found.first > found.last:
        raise _malformed(item, "a range goes up and stays on one timeline")
    return found


def _checked(name: str, kind: WalKind) -> str:
    try:
        if parse_wal_name(name).kind is kind:
            return name
    except ValueError as error:
        raise _malformed(name, str(error)) from error
    raise _malformed(name, f"a {kind.value} is wanted here")


def _malformed(item: str, why: str) -> UsageError:
    return UsageError(
        f"The plan given to wal-fetch is malformed at {item!r}.",
        why=f"{why[0].upper()}{why[1:]}.",
        remedy="pgkeep restore writes the plan; restore again, or take --plan out of "
        "restore_command (then an absent file ends recovery).",
    )


def check_may_be_given(name: str, plan: WalPlan | None) -> None:
    """Raise ``WalNotFound`` for a file that is absent whatever a store says.

    That is a segment of another branch than the one which the plan leads along, and the one file
    that no server ever writes: a server that is promoted from timeline 1 asks for that
    timeline's history all the same, and a store that is away must not fail promotion.
    """
    if name == _NO_HISTORY:
        raise WalNotFound(f"{name} does not exist: timeline 1 has no ancestors.", segment=name)
    if plan is not None and plan.forbids(name):
        raise WalNotFound(
            f"{name} does not lie on the way to this recovery's target.",
            why="Its timeline was left before.",
            segment=name,
        )
