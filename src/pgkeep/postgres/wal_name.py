"""The names of files in ``pg_wal`` and in an archive.

Four kinds of file reach an archive, and each is told by its name alone
(``src/include/access/xlog_internal.h``):

========================================== =============================================
``000000020000000A000000FE``               a segment: timeline, log, segment
``000000020000000A000000FE.partial``       the last, unfinished segment of a timeline
``000000020000000A000000FE.00000028.backup`` notes of a base backup that started there
``00000002.history``                       which timelines lead to this one
========================================== =============================================

A segment's name cannot be turned into a position without the segment size: with 16 MiB there
are 256 segments to a log, with 1 GiB there are four.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pgkeep.postgres.lsn import Lsn, Timeline

TYPE_CHECKING = False  # typing's own constant would do the same; mypy knows both
if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_SEGMENT_SIZE = 1 << 20
MAX_SEGMENT_SIZE = 1 << 30
DEFAULT_SEGMENT_SIZE = 16 << 20

_DIGITS = frozenset("0123456789ABCDEF")
_LOG_SIZE = 1 << 32


class WalKind(Enum):
    """What a file in the archive is."""

    SEGMENT = "segment"
    PARTIAL = "partial"
    BACKUP_LABEL = "backup"
    HISTORY = "history"


class WalName(NamedTuple):
    """A file name taken apart. For a history file ``log`` and ``seg`` are zero.

    ``offset_bytes`` is where in its segment the backup began, for a ``.backup`` file.
    """

    name: str
    kind: WalKind
    timeline: Timeline
    log: int
    seg: int
    offset_bytes: int = 0

    @property
    def segment(self) -> str:
        """The 24 digits of the segment that this file is or belongs to.

        Raises ValueError for a history file, which belongs to none.
        """
        if self.kind is WalKind.HISTORY:
            raise ValueError(f"{self.name} belongs to no segment")
        return self.name[:24]


def parse_wal_name(name: str) -> WalName:
    """Take apart the name of a file in ``pg_wal`` (no directories).

    Raises ValueError when the server would not archive a file of that name.
    """
    stem, dot, suffix = name.partition(".")
    if not _DIGITS.issuperset(stem):
        raise _not_a_wal_name(name)
    if len(stem) == 8 and suffix == "history":
        return WalName(name, WalKind.HISTORY, _timeline(stem, name), 0, 0)
    if len(stem) != 24:
        raise _not_a_wal_name(name)
    timeline, log, seg = _timeline(stem[:8], name), int(stem[8:16], 16), int(stem[16:], 16)
    if not dot:
        return WalName(name, WalKind.SEGMENT, timeline, log, seg)
    if suffix == "partial":
        return WalName(name, WalKind.PARTIAL, timeline, log, seg)
    offset, _, last = suffix.partition(".")
    if last == "backup" and len(offset) == 8 and _DIGITS.issuperset(offset):
        return WalName(name, WalKind.BACKUP_LABEL, timeline, log, seg, int(offset, 16))
    raise _not_a_wal_name(name)


def check_segment_size(segment_size: int) -> int:
    """Return a legal segment size in bytes unchanged; raise ValueError for any other."""
    power_of_two = segment_size > 0 and segment_size & (segment_size - 1) == 0
    if not power_of_two or not MIN_SEGMENT_SIZE <= segment_size <= MAX_SEGMENT_SIZE:
        raise ValueError(
            f"not a WAL segment size: {segment_size} bytes (a power of two, 1 MiB to 1 GiB)"
        )
    return segment_size


def segment_name(timeline: int, segno: int, segment_size: int) -> str:
    """``XLogFileName``: the name of segment number ``segno`` on a timeline."""
    log, seg = divmod(segno, _LOG_SIZE // check_segment_size(segment_size))
    if not 0 <= log <= 0xFFFFFFFF:
        raise ValueError(f"no segment has the number {segno}")
    return f"{Timeline(timeline):08X}{log:08X}{seg:08X}"


def segment_number(lsn: int, segment_size: int) -> int:
    """``XLByteToSeg``: the number of the segment that holds the byte at ``lsn``."""
    return int(lsn) // check_segment_size(segment_size)


def previous_segment_number(lsn: int, segment_size: int) -> int:
    """``XLByteToPrevSeg``: the segment that holds the last byte *before* ``lsn``.

    For the end of something: a backup that stops exactly on a boundary needs nothing of the
    segment that begins there, and the server may never write it.
    """
    if lsn <= 0:
        raise ValueError("nothing lies before the start of the WAL")
    return (int(lsn) - 1) // check_segment_size(segment_size)


def segment_of(name: str | WalName, segment_size: int) -> int:
    """The segment number of a file (segment, partial or backup label).

    Raises ValueError for a history file, and for a name that cannot exist with this segment
    size, which is how a server initialised with another size gives itself away.
    """
    parsed = parse_wal_name(name) if isinstance(name, str) else name
    per_log = _LOG_SIZE // check_segment_size(segment_size)
    if parsed.kind is WalKind.HISTORY:
        raise ValueError(f"{parsed.name} belongs to no segment")
    if parsed.seg >= per_log:
        raise ValueError(
            f"{parsed.name} cannot exist with segments of {segment_size} bytes: its last part "
            f"would be below {per_log:X}"
        )
    return parsed.log * per_log + parsed.seg


def segment_start_lsn(segno: int, segment_size: int) -> Lsn:
    """The position of a segment's first byte."""
    return Lsn(segno * check_segment_size(segment_size))


def next_segment(name: str, segment_size: int) -> str:
    """The name of the segment after ``name`` on the same timeline."""
    parsed = parse_wal_name(name)
    return segment_name(parsed.timeline, segment_of(parsed, segment_size) + 1, segment_size)


def history_name(timeline: int) -> str:
    """``TLHistoryFileName``: ``00000002.history``."""
    return f"{Timeline(timeline):08X}.history"


def segments_between(start: Lsn, stop: Lsn, timeline: int, segment_size: int) -> Iterator[str]:
    """Names of all segments that hold bytes of [start, stop), oldest first.

    A stop exactly on a boundary belongs to the segment before it, as ``pg_backup_stop`` has
    it. An empty range still names the segment of its start, for nothing can begin there
    without it. Raises ValueError if ``stop`` lies before ``start``.
    """
    if stop < start:
        raise ValueError(f"the range ends at {stop}, before its start {start}")
    first = segment_number(start, segment_size)
    last = max(first, previous_segment_number(stop, segment_size)) if stop else first
    for segno in range(first, last + 1):
        yield segment_name(timeline, segno, segment_size)


def _timeline(digits: str, name: str) -> Timeline:
    try:
        return Timeline(int(digits, 16))
    except ValueError:
        raise _not_a_wal_name(name) from None


def _not_a_wal_name(name: str) -> ValueError:
    return ValueError(
        f"not the name of a WAL segment, history, backup label or partial file: {name!r}"
    )
