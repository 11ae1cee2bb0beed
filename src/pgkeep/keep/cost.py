"""What a cluster's backups cost: quantities that were measured, and what they will be. Pure.

All is counted from one listing, by the store's own times and sizes. What lies ahead is computed by
the rules that ``expire`` decides by (``deciding.py``), on the backups that are there and on those
that will follow at the same pace, with a database that stays as large as it is. Of two kept
backups, the newer one holds what changed since the older one, and never more than a whole backup.

Requests are those of the ordinary course: archiving, backups and what follows them. A test counts
the calls that commands really make and compares them with the numbers here. Deleting is free with
most providers, and is not counted; a listing costs as much as a write with most.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from pgkeep.config.keeping import KeepPolicy
from pgkeep.config.prices import Prices
from pgkeep.keep.deciding import Candidate, decide
from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import ObjectInfo
from pgkeep.units import GIB

MEASURED = timedelta(days=7)
MONTH = timedelta(days=30)
MONTHS_AHEAD = (1, 3, 12)

WAL_WRITES, WAL_READS = 3, 4
"""For one file: it is stored, keys and systems are listed; three records and a header are read."""
BACKUP_WRITES, BACKUP_READS = 48, 40
"""For one backup and the ``expire`` after it, beside its packs."""
READS_FOR_EACH_KEPT = 6
"""And for each backup that is there already: its head, its pin, the end of its newest pack."""
_LISTINGS_OF_ALL = 2
_LISTED_AT_ONCE = 1000
_SHORTEST_INTERVAL = timedelta(hours=1)
_DAY = timedelta(days=1)


class Kept(NamedTuple):
    """A backup that is there. ``added_bytes`` is None for one that stored all pages."""

    ended: datetime
    stored_bytes: int
    added_bytes: int | None
    is_good: bool
    held: bool


class Usage(NamedTuple):
    """What is stored now, and the pace at which it comes.

    ``measured`` is the time that the pace was taken from. ``interval`` is that between two backups,
    and None before the second one; so is ``added_bytes``, of one increment, before the first.
    """

    pack_bytes: int
    wal_bytes: int
    other_bytes: int
    packs: int
    wal_files: int
    measured: timedelta
    wal_bytes_a_day: float
    wal_files_a_day: float
    interval: timedelta | None
    added_bytes: float | None
    packs_each: float
    restore_bytes: int

    @property
    def stored_bytes(self) -> int:
        return self.pack_bytes + self.wal_bytes + self.other_bytes

    @property
    def backups_a_day(self) -> float:
        return _DAY / self.interval if self.interval else 0.0


class Requests(NamedTuple):
    """In a month. ``writes`` are puts and listings, ``reads`` all others but deletions."""

    writes: float
    reads: float


class Ahead(NamedTuple):
    """What will be stored so many months from now."""

    months: int
    backups: int
    stored_bytes: float


def measure(
    objects: Iterable[ObjectInfo],
    layout: Layout,
    kept: Sequence[Kept],
    *,
    since: datetime,
    now: datetime,
) -> Usage:
    """Count what is listed. ``since`` is from when on all WAL is there; ``kept`` oldest first."""
    begin = max(since, now - MEASURED)
    sizes = {"packs": 0, "wal": 0, "other": 0}
    counts = {"packs": 0, "wal": 0, "other": 0}
    new_wal = new_wal_bytes = 0
    for info in objects:
        kind = "wal" if info.key.startswith((layout.wal, layout.history)) else "other"
        kind = "packs" if info.key.startswith(layout.packs) else kind
        sizes[kind] += info.size_bytes
        counts[kind] += 1
        if kind == "wal" and info.modified >= begin:
            new_wal += 1
            new_wal_bytes += info.size_bytes
    measured = max(now - begin, timedelta(seconds=1))
    added = [one.added_bytes for one in kept if one.added_bytes is not None][-7:]
    each = statistics.fmean(added) if added else None
    mean_pack = sizes["packs"] / counts["packs"] if counts["packs"] else 0
    return Usage(
        sizes["packs"],
        sizes["wal"],
        sizes["other"],
        counts["packs"],
        counts["wal"],
        measured,
        new_wal_bytes / (measured / _DAY),
        new_wal / (measured / _DAY),
        _interval([one.ended for one in kept], now),
        each,
        max(1.0, each / mean_pack) if each and mean_pack else 0.0,
        kept[-1].stored_bytes if kept else 0,
    )


def requests_a_month(usage: Usage, *, backups: int) -> Requests:
    """What archiving and backups ask of the store, with so many ``backups`` kept."""
    wal = usage.wal_files_a_day * 30
    runs = usage.backups_a_day * 30
    pages = _LISTINGS_OF_ALL * (usage.packs + usage.wal_files) // _LISTED_AT_ONCE
    return Requests(
        wal * WAL_WRITES + runs * (BACKUP_WRITES + usage.packs_each + pages),
        wal * WAL_READS + runs * (BACKUP_READS + READS_FOR_EACH_KEPT * backups),
    )


def look_ahead(
    usage: Usage,
    kept: Sequence[Kept],
    policy: KeepPolicy,
    *,
    grace: timedelta,
    now: datetime,
    months: Sequence[int] = MONTHS_AHEAD,
) -> list[Ahead]:
    """What will be stored; empty as long as the pace of backups is not known."""
    if usage.interval is None or usage.added_bytes is None:
        return []
    interval = max(usage.interval, _SHORTEST_INTERVAL)
    a_day = usage.added_bytes * usage.backups_a_day
    end = now + max(months) * MONTH
    backups = [_candidate(n, one.ended, one) for n, one in enumerate(kept)]
    moment = kept[-1].ended + interval
    while moment <= end:
        backups.append(_candidate(len(backups), moment, None))
        moment += interval
    return [
        _stored_at(now + count * MONTH, count, backups, usage, policy, grace, a_day)
        for count in months
    ]


def storage_price(stored_bytes: float, prices: Prices) -> float:
    """For a month."""
    return stored_bytes / GIB * prices.storage


def requests_price(requests: Requests, prices: Prices) -> float:
    return (requests.writes * prices.writes + requests.reads * prices.reads) / 1000


def out_price(read_bytes: float, prices: Prices) -> float:
    """For reading so much once, from elsewhere."""
    return read_bytes / GIB * prices.out


def _interval(ends: Sequence[datetime], now: datetime) -> timedelta | None:
    """The usual time between two backups of the last days; those of older ones show the policy."""
    gaps = [(later, later - one) for one, later in pairwise(ends)]
    recent = [gap for later, gap in gaps if now - later <= MEASURED]
    recent = recent or [gap for _, gap in gaps[-1:]]
    return sorted(recent)[len(recent) // 2] if recent else None


def _candidate(number: int, moment: datetime, kept: Kept | None) -> Candidate:
    """As if all lay on one timeline, which is what will be."""
    return Candidate(
        f"{number:08d}",
        1,
        Lsn(number * 2 + 1),
        Lsn(number * 2 + 2),
        moment,
        moment,
        kept is None or kept.is_good,
        "" if kept is not None and kept.held else None,
    )


def _stored_at(
    moment: datetime,
    months: int,
    backups: Sequence[Candidate],
    usage: Usage,
    policy: KeepPolicy,
    grace: timedelta,
    added_a_day: float,
) -> Ahead:
    kept: set[str] = set()
    bases: list[datetime] = []
    ends = {one.id: one.ended for one in backups}
    # What was given up less than the grace time ago still takes room.
    for now in (moment, moment - grace):
        there = [one for one in backups if one.ended <= now]
        found = decide(there, policy, now=now, timelines=[TimelineHistory.of_first()])
        kept |= {one.backup for one in found if one.is_kept}
        if now == moment:
            bases = [ends[one.backup] for one in found if one.is_base]
            count = sum(one.is_kept for one in found)
    order = sorted(ends[name] for name in kept)
    whole = usage.restore_bytes
    changed = sum(
        min(whole, added_a_day * ((later - one) / _DAY)) for one, later in pairwise(order)
    )
    wal = usage.wal_bytes_a_day * ((moment - min(bases)) / _DAY) if bases else 0.0
    return Ahead(months, count, whole + changed + wal + usage.other_bytes)
