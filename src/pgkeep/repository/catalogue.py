"""The catalogue: what listing the repository means. There is no catalogue object to get out of
date.

Backups come from manifests, WAL from names, timelines from the plain headers of history files.
From the three follow the *recovery windows*: for a timeline, from the end of a good backup to
the end of the WAL that follows it without a gap.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from pgkeep.errors import DamagedObject, ObjectNotFound, PgkeepError
from pgkeep.postgres.history import Ancestor, TimelineHistory
from pgkeep.postgres.lsn import Lsn, Timeline
from pgkeep.postgres.wal_name import (
    WalKind,
    parse_wal_name,
    previous_segment_number,
    segment_name,
    segment_number,
    segment_of,
)
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import Head, Manifest, read_head, read_manifest
from pgkeep.repository.wal import read_wal_header
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Store
from pgkeep.units import from_utc_text

_REQUESTS = 16
_T = TypeVar("_T")


@dataclass(frozen=True)
class Backup:
    """A backup that exists. ``copies`` says under which of the two prefixes its manifest was
    found."""

    head: Head
    copies: tuple[bool, bool]

    @property
    def id(self) -> str:
        return self.head.backup

    @property
    def start_lsn(self) -> Lsn:
        return Lsn.parse(self.head.start_lsn)

    @property
    def stop_lsn(self) -> Lsn:
        return Lsn.parse(self.head.stop_lsn)

    @property
    def ended(self) -> datetime:
        return from_utc_text(self.head.ended)


@dataclass(frozen=True)
class Gap:
    """Segments [first, last] (numbers) that are missing on a timeline between stored ones."""

    timeline: int
    first: str
    last: str
    segments: int


@dataclass(frozen=True)
class Window:
    """Any moment in [from_moment, to_moment] of ``timeline`` can be restored to.

    ``to_moment`` is when the last segment was closed: not earlier than its last commit.
    """

    timeline: int
    from_moment: datetime
    to_moment: datetime
    from_lsn: Lsn
    last_segment: str
    backups: tuple[str, ...]


@dataclass(frozen=True)
class WalInventory:
    """Which WAL is stored: segment numbers by timeline (sorted), partials, histories."""

    segment_size: int
    segments: Mapping[int, Sequence[int]]
    partials: frozenset[str]
    histories: Mapping[int, TimelineHistory]
    stored_bytes: int

    def has(self, timeline: int, segno: int) -> bool:
        known = self.segments.get(timeline, ())
        at = bisect_left(known, segno)
        return at < len(known) and known[at] == segno

    def run_end(self, timeline: int, segno: int) -> int | None:
        """The last segment of the unbroken run on ``timeline`` that holds ``segno``."""
        if not self.has(timeline, segno):
            return None
        known = self.segments[timeline]
        low, high = bisect_left(known, segno), len(known) - 1
        base = known[low] - low
        while low < high:  # binary search: in an unbroken run, number - index is constant
            middle = (low + high + 1) // 2
            if known[middle] - middle == base:
                low = middle
            else:
                high = middle - 1
        return known[low]

    def gaps(self) -> list[Gap]:
        """Missing segments between stored ones, on each timeline."""
        found = []
        for timeline, known in sorted(self.segments.items()):
            for before, after in pairwise(known):
                if after != before + 1:
                    found.append(
                        Gap(
                            timeline,
                            segment_name(timeline, before + 1, self.segment_size),
                            segment_name(timeline, after - 1, self.segment_size),
                            after - before - 1,
                        )
                    )
        return found

    def history(self, timeline: int) -> TimelineHistory | None:
        """The history of a timeline; None when it is needed and not stored."""
        if timeline == 1:
            return TimelineHistory.of_first()
        return self.histories.get(timeline)

    def path(self, history: TimelineHistory, start: Lsn) -> list[tuple[int, int, int | None]]:
        """The segments on the way from ``start`` along a history: (timeline, first, last)
        stretches.

        The segment that holds a switch point is the child's, as PostgreSQL looks for it; the last
        stretch has no end (None).
        """
        first = segment_number(start, self.segment_size)
        stretches: list[tuple[int, int, int | None]] = []
        for ancestor in history.ancestors:
            if ancestor.end is None:
                stretches.append((ancestor.timeline, first, None))
            else:
                beyond = segment_number(ancestor.end, self.segment_size)
                if beyond > first:
                    stretches.append((ancestor.timeline, first, beyond - 1))
                    first = beyond
        return stretches

    def reach(self, history: TimelineHistory, start: Lsn) -> tuple[int, int] | None:
        """The last (timeline, segment) reached from ``start`` without a gap; None if not even
        that."""
        reached = None
        for timeline, first, last in self.path(history, start):
            end = self.run_end(timeline, first)
            if end is None:
                break
            reached = (timeline, end if last is None else min(end, last))
            if last is not None and end < last:
                break
        return reached


def list_backups(repository: Repository, layout: Layout) -> list[Backup]:
    """All backups that exist, oldest first.

    Raises ``IdentityNeeded`` without the metadata key. A backup whose manifests are both
    unreadable is an error (``DamagedObject``), not an absence.
    """
    found = [
        {info.key[len(prefix) :] for info in repository.store.list(prefix)}
        for prefix in (layout.manifests, layout.manifest_copies)
    ]
    voids = {info.key[len(layout.voids) :] for info in repository.store.list(layout.voids)}
    names = sorted((found[0] | found[1]) - voids)
    if not names:
        return []

    def load(name: str) -> Backup:
        copies = (name in found[0], name in found[1])
        return Backup(_either(repository, layout, name, copies, read_head), copies)

    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(load, names))


def load_manifest(repository: Repository, layout: Layout, backup: Backup) -> Manifest:
    """The whole manifest of a backup, from whichever copy is sound."""
    return _either(repository, layout, backup.id, backup.copies, read_manifest)


def read_inventory(repository: Repository, layout: Layout, segment_size: int) -> WalInventory:
    """List the stored WAL, and read each history file's plain header."""
    segments: dict[int, list[int]] = {}
    partials, stored = set(), 0
    for info in repository.store.list(layout.wal):
        stored += info.size_bytes
        try:
            name = parse_wal_name(info.key.rpartition("/")[2])
            if name.kind is WalKind.SEGMENT:
                segments.setdefault(name.timeline, []).append(segment_of(name, segment_size))
            elif name.kind is WalKind.PARTIAL:
                partials.add(name.name)
        except ValueError:
            continue  # not a name that PostgreSQL asks for: nothing depends on it
    return WalInventory(
        segment_size,
        {timeline: sorted(numbers) for timeline, numbers in segments.items()},
        frozenset(partials),
        read_histories(repository, layout),
        stored,
    )


def read_histories(repository: Repository, layout: Layout) -> dict[int, TimelineHistory]:
    """The histories of all timelines whose history file is stored."""
    histories = {}
    for info in repository.store.list(layout.history):
        name = info.key.rpartition("/")[2]
        header = read_wal_header(repository.store, info.key, repository.keyring)
        timeline = parse_wal_name(name).timeline
        histories[int(timeline)] = _history(timeline, header.ancestors or [])
    return histories


def is_complete(backup: Backup, inventory: WalInventory) -> bool:
    """Whether every segment from the backup's start to its stop is stored."""
    last = previous_segment_number(backup.stop_lsn, inventory.segment_size)
    first = segment_number(backup.start_lsn, inventory.segment_size)
    end = inventory.run_end(backup.head.timeline, first)
    return end is not None and end >= last


def is_good(backup: Backup, inventory: WalInventory) -> bool:
    """WAL from start to end is complete, and no page that it refers to is marked as failed."""
    return backup.head.failed_pages == 0 and is_complete(backup, inventory)


def recovery_windows(
    repository: Repository,
    layout: Layout,
    backups: Iterable[Backup],
    inventory: WalInventory,
) -> list[Window]:
    """For each timeline, the intervals to any moment of which a restore is possible.

    Backups with failed pages count: they restore, and ``list`` marks them.
    """
    complete = [backup for backup in backups if is_complete(backup, inventory)]
    timelines = set(inventory.segments) | {backup.head.timeline for backup in complete}
    windows = []
    for timeline in sorted(timelines):
        history = inventory.history(timeline)
        if history is not None:
            windows += _windows_of(repository, layout, history, complete, inventory)
    return windows


def _windows_of(
    repository: Repository,
    layout: Layout,
    history: TimelineHistory,
    backups: Sequence[Backup],
    inventory: WalInventory,
) -> list[Window]:
    by_end: dict[tuple[int, int], list[Backup]] = {}
    for backup in backups:
        if not history.contains(backup.head.timeline, backup.stop_lsn):
            continue
        reached = inventory.reach(history, backup.start_lsn)
        # An end on an ancestor is that ancestor's window, or belongs to nobody: it is shown there.
        if reached is not None and reached[0] == history.timeline:
            by_end.setdefault(reached, []).append(backup)
    windows = []
    for (timeline, segno), members in sorted(by_end.items()):
        name = segment_name(timeline, segno, inventory.segment_size)
        closed = _closed(repository, layout, name)
        first = min(members, key=lambda backup: backup.ended)
        windows.append(
            Window(
                timeline,
                first.ended,
                max(closed, first.ended),
                first.stop_lsn,
                name,
                tuple(backup.id for backup in members),
            )
        )
    return windows


def _closed(repository: Repository, layout: Layout, name: str) -> datetime:
    key = layout.wal_file(name)
    return from_utc_text(read_wal_header(repository.store, key, repository.keyring).modified)


def _history(timeline: Timeline, rows: Sequence[Sequence[object]]) -> TimelineHistory:
    begin, stretches = Lsn(0), []
    for parent, switch in rows:
        end = Lsn.parse(str(switch))
        stretches.append(Ancestor(Timeline(int(str(parent))), begin, end))
        begin = end
    return TimelineHistory(timeline, (*stretches, Ancestor(timeline, begin, None)))


def _either(
    repository: Repository,
    layout: Layout,
    name: str,
    copies: tuple[bool, bool],
    read: Callable[[Store, str, Keyring], _T],
) -> _T:
    keys = (layout.manifest(name), layout.manifest_copy(name))
    problem: PgkeepError | None = None
    for key, there in zip(keys, copies, strict=True):
        if there:
            try:
                return read(repository.store, key, repository.keyring)
            except (DamagedObject, ObjectNotFound) as error:
                problem = error
    assert problem is not None
    raise problem


def timelines_after(histories: Mapping[int, TimelineHistory], timeline: int) -> list[int]:
    """The timelines that descend from ``timeline``, itself first, ascending."""
    children = [
        number
        for number, history in histories.items()
        if any(a.timeline == timeline for a in history.ancestors[:-1])
    ]
    return [timeline, *sorted(children)]
