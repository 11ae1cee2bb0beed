"""Which WAL is stored, and how far one gets with it.

Segments are told by their names alone, so a listing is all that is read: a million segments are
16 TB of WAL, some 8 MB here, and a second of parsing. Timelines are told by the plain headers of
history files, which are small and few.

A name that PostgreSQL would not ask for, or that lies in the wrong folder, is nothing that anything
depends on, and is passed over.
"""

from __future__ import annotations

import operator
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from types import MappingProxyType
from typing import NamedTuple

from pgkeep.errors import DamagedObject, StoreError
from pgkeep.postgres.history import Ancestor, TimelineHistory
from pgkeep.postgres.lsn import Lsn, Timeline
from pgkeep.postgres.wal_name import (
    WalKind,
    check_segment_size,
    parse_wal_name,
    segment_name,
    segment_number,
)
from pgkeep.repository.horizons import read_horizons
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal import read_wal_header
from pgkeep.seal.envelope import damaged as damaged_object
from pgkeep.storage.fallback import read_sound
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.together import each, together

_LISTINGS = 3
_SEGMENT = re.compile(r"([0-9A-F]{8}[0-9A-F]{8})/\1[0-9A-F]{8}")
_HISTORY = re.compile(r"(?!0{8})[0-9A-F]{8}\.history")
_LOG_BYTES = 1 << 32


@dataclass(frozen=True)
class Gap:
    """Segments [first, last] (numbers) that are missing on a timeline between stored ones."""

    timeline: int
    first: str
    last: str
    segments: int


@dataclass(frozen=True)
class WalInventory:
    """Which WAL is stored: segment numbers by timeline (sorted), partials, histories."""

    segment_size: int
    segments: Mapping[int, Sequence[int]]
    partials: frozenset[str]
    histories: Mapping[int, TimelineHistory]
    stored_bytes: int
    horizons: Mapping[int, Lsn] = field(default_factory=dict)

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
        """Missing segments between stored ones, on each timeline, that were not given up."""
        found = []
        for timeline, known in sorted(self.segments.items()):
            horizon = segment_number(self.horizons.get(timeline, Lsn(0)), self.segment_size)
            for before, after in pairwise(known):
                before = max(before, horizon - 1)
                if after > before + 1:
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


class WalListing(NamedTuple):
    """What a listing shows, before it is known how large a segment is.

    ``segments`` has the last 16 digits of each name as one number, by the timeline's 8 digits.
    """

    segments: dict[str, array[int]]
    partials: frozenset[str]
    stored_bytes: int
    histories: Mapping[int, TimelineHistory] = MappingProxyType({})
    horizons: Mapping[int, Lsn] = MappingProxyType({})

    def inventory(self, segment_size: int) -> WalInventory:
        """What is stored, of segments of this size. Raises ValueError for an illegal one."""
        per_log = _LOG_BYTES // check_segment_size(segment_size)
        return WalInventory(
            segment_size,
            {
                int(timeline, 16): _ascending(known)
                for timeline, names in self.segments.items()
                if (known := _numbered(names, per_log))
            },
            self.partials,
            self.histories,
            self.stored_bytes,
            self.horizons,
        )


def read_inventory(
    repository: Repository,
    layout: Layout,
    segment_size: int,
    *,
    damaged: Callable[[DamagedObject], None] | None = None,
    seen: Callable[[ObjectInfo], None] | None = None,
) -> WalInventory:
    """List the stored WAL, and read each history file's plain header.

    ``damaged`` is told of each of these that is; without it ``DamagedObject`` is raised. ``seen``
    is told of everything that is listed but histories. Of gaps only those count that are not below
    a horizon.
    """
    listing = list_wal(repository, layout, damaged=damaged, seen=seen)
    return listing.inventory(segment_size)


def list_wal(
    repository: Repository,
    layout: Layout,
    *,
    damaged: Callable[[DamagedObject], None] | None = None,
    seen: Callable[[ObjectInfo], None] | None = None,
) -> WalListing:
    """As :func:`read_inventory`, by who does not know yet how large a segment is."""
    listing, histories, horizons = together(
        lambda: _list(repository.store, layout.wal, seen),
        lambda: read_histories(repository, layout, damaged=damaged),
        lambda: read_horizons(repository.store, layout),
    )
    return listing._replace(histories=histories, horizons=horizons)


def _list(store: Store, prefix: str, seen: Callable[[ObjectInfo], None] | None) -> WalListing:
    start = len(prefix)
    segments: dict[str, array[int]] = {}
    partials, stored = set(), 0
    for info in store.list(prefix):
        stored += info.size_bytes
        if seen is not None:
            seen(info)
        place = info.key[start:]
        if _SEGMENT.fullmatch(place):
            segments.setdefault(place[:8], array("Q")).append(int(place[-16:], 16))
        elif place.endswith(".partial") and _is_partial(place):
            partials.add(place[17:])
    segments.pop("00000000", None)
    return WalListing(segments, frozenset(partials), stored)


def _numbered(names: array[int], per_log: int) -> array[int]:
    """The numbers of segments from the ends of their names; no segment of this size has others."""
    low = (1 << 32) - 1
    return array("q", ((one >> 32) * per_log + (one & low) for one in names if one & low < per_log))


def read_whole_inventory(
    repository: Repository, layout: Layout, segment_size: int, *, listed: WalListing | None = None
) -> WalInventory:
    """As :func:`read_inventory`, for whoever takes the end of what is listed for the end of what is
    stored: the segment behind each end is asked for by its name, and must not be there.

    ``listed`` spares the first listing. Raises also ``StoreError``, when the store goes on listing
    less than it has.
    """
    inventory = (listed or list_wal(repository, layout)).inventory(segment_size)
    beyond: set[tuple[int, int]] = set()
    for _ in range(_LISTINGS):
        behind = [(timeline, known[-1] + 1) for timeline, known in inventory.segments.items()]
        are_there = each(
            lambda one: repository.store.exists(_key_of(layout, *one, segment_size)), behind
        )
        beyond = {one for one, is_there in zip(behind, are_there, strict=True) if is_there}
        if not beyond:
            return inventory
        inventory = read_inventory(repository, layout, segment_size)
        if all(inventory.has(*segment) for segment in beyond):
            return inventory  # it arrived meanwhile, as may those behind it by now
    key = _key_of(layout, *min(beyond), segment_size)
    raise StoreError(
        f"{repository.store.url} has {key}, and does not list it.",
        why="What it lists is not all that it has: a restore would end too early.",
        remedy="Run the command again in a minute; if it stays so, see what stands between the "
        "store and this host (a cache, a gateway, a replica that is behind).",
        key=key,
    )


def _key_of(layout: Layout, timeline: int, number: int, segment_size: int) -> str:
    return layout.wal_file(segment_name(timeline, number, segment_size))


def read_histories(
    repository: Repository,
    layout: Layout,
    *,
    damaged: Callable[[DamagedObject], None] | None = None,
) -> dict[int, TimelineHistory]:
    """The histories of all timelines whose history file is stored.

    Raises ``DamagedObject`` when one of them is unreadable: without it nobody can say which
    timelines descend from which. Whoever only looks passes ``damaged``, and is told instead.
    """
    keys = [info.key for info in repository.store.list(layout.history)]
    keys = [key for key in keys if _HISTORY.fullmatch(key[len(layout.history) :])]
    if not keys:
        return {}

    def load(key: str) -> TimelineHistory:
        keyring = repository.keyring
        header = read_sound(
            repository.store, key, lambda store: read_wal_header(store, key, keyring)
        )
        try:
            return _history(int(header.name[:8], 16), header.ancestors or [])
        except (ValueError, OverflowError) as error:
            raise damaged_object(key, f"its header's ancestors are malformed ({error})") from error

    def load_or_tell(key: str) -> TimelineHistory | None:
        try:
            return load(key)
        except DamagedObject as error:
            if damaged is None:
                raise
            damaged(error)
            return None

    return {int(history.timeline): history for history in each(load_or_tell, keys) if history}


def _history(timeline: int, rows: Sequence[Sequence[object]]) -> TimelineHistory:
    own, begin = Timeline(timeline), Lsn(0)
    stretches: list[Ancestor] = []
    for parent, switch in rows:
        ancestor, end = Timeline(int(str(parent))), Lsn.parse(str(switch))
        before = stretches[-1].timeline if stretches else 0
        if not before < ancestor < own or end <= begin:
            raise ValueError("they do not ascend")
        stretches.append(Ancestor(ancestor, begin, end))
        begin = end
    return TimelineHistory(own, (*stretches, Ancestor(own, begin, None)))


def _ascending(numbers: array[int]) -> array[int]:
    # A listing ascends, and so do names of fixed width; a store that does not is set right.
    if all(map(operator.lt, numbers, islice(numbers, 1, None))):
        return numbers
    return array("q", sorted(set(numbers)))


def _is_partial(place: str) -> bool:
    try:
        name = parse_wal_name(place[17:])
    except ValueError:
        return False
    return name.kind is WalKind.PARTIAL and place[:17] == f"{name.name[:16]}/"


def timelines_after(histories: Mapping[int, TimelineHistory], timeline: int) -> list[int]:
    """The timelines that descend from ``timeline``, itself first, ascending."""
    children = [
        number
        for number, history in histories.items()
        if any(a.timeline == timeline for a in history.ancestors[:-1])
    ]
    return [timeline, *sorted(children)]
