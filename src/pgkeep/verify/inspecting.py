"""The quick level: everything that a listed backup or a recovery window needs is there.

Listings, the two manifests of each backup, and the plain headers of history files; no pack and no
segment is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound, WrongIdentity
from pgkeep.postgres.wal_name import segment_number, segments_between
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import (
    Backup,
    Window,
    read_catalogue,
    read_inventory,
    recovery_windows,
)
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import read_head
from pgkeep.repository.wal_inventory import Gap, WalInventory
from pgkeep.seal.envelope import TRAILER_SIZE
from pgkeep.units import show_moment
from pgkeep.verify.needs import Needs
from pgkeep.verify.problem import Problem, what_of

_USUAL_SEGMENT = 16 << 20
_REQUESTS = 16
_ASKED_AT_ONCE = 1024


@dataclass
class Inspection:
    """What was found. ``notes`` are what is known of backups, and no fault of the repository."""

    needs: Needs
    backups: tuple[Backup, ...] = ()
    windows: tuple[Window, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The backups that can be read, oldest first."""
        return tuple(backup.id for backup in self.backups)

    def impact(self, key: str, layout: Layout) -> tuple[str, ...]:
        """Which windows lose something by the loss of an object that is there now."""
        if key.startswith(layout.history):
            return (f"timeline {int(key[len(layout.history) :][:8], 16)} cannot be reached",)
        if key.startswith(layout.wal) and len(name := key.rpartition("/")[2]) == 24:
            timeline = int(name[:8], 16)
            first = min((_segments(one)[0][8:] for one in self.backups), default="")
            return tuple(
                f"cuts the window of timeline {timeline} up to {show_moment(window.to_moment)}"
                for window in self.windows
                if window.timeline >= timeline and first <= name[8:] <= window.last_segment[8:]
            )
        return ()

    def backups_of_wal(self, key: str, layout: Layout) -> list[str]:
        """The backups that need this WAL file to become consistent."""
        name = key.rpartition("/")[2]
        return [one.id for one in self.backups if layout.wal in key and name in _segments(one)]


def inspect(repository: Repository, layout: Layout, *, progress: Progress) -> Inspection:
    """Look at one system of a cluster in one repository.

    Raises ``IdentityNeeded`` without the metadata key, and what the store raises.
    """
    progress.phase("reading the catalogue")
    found = Inspection(Needs(repository, layout))
    catalogue = read_catalogue(repository, layout)
    found.backups = catalogue.backups
    for problem in catalogue.problems:
        if isinstance(problem.error, FormatTooNew):
            raise problem.error
        key = layout.manifest(problem.backup)
        found.problems.append(Problem(key, what_of(problem.error, key), (problem.backup,)))
    _look_at_manifests(repository, layout, found)
    _look_at_packs(repository, layout, found, progress)
    _look_at_wal(repository, layout, found)
    for backup in found.backups:
        if count := backup.head.failed_pages:
            what = "1 page that was" if count == 1 else f"{count} pages that were"
            found.notes.append(
                f"Backup {backup.id} holds {what} damaged on the server when it was made, and "
                "has said so since."
            )
    return found


def _look_at_manifests(repository: Repository, layout: Layout, found: Inspection) -> None:
    """Both copies, each by itself: one alone suffices, and is one loss away from none."""
    keys = [
        key for name in found.names for key in (layout.manifest(name), layout.manifest_copy(name))
    ]

    def look(key: str) -> Problem | None:
        try:
            read_head(repository.store, key, repository.keyring)
        except ObjectNotFound:
            return Problem(key, "is missing; the other copy is there")
        except (DamagedObject, WrongIdentity) as error:
            return Problem(key, f"{what_of(error, key)}; the other copy was read")
        return None

    with ThreadPoolExecutor(_REQUESTS) as pool:
        found.problems += filter(None, pool.map(look, keys))
        bad = {problem.key for problem in found.problems}
        pairs = [
            (layout.manifest(backup.id), layout.manifest_copy(backup.id))
            for backup in found.backups
            if all(backup.copies)
        ]
        sound = [pair for pair in pairs if not bad.intersection(pair)]
        sizes = _sizes(repository, layout) if sound else {}
        for pair, are_same in zip(
            sound, pool.map(lambda pair: _are_same(repository, pair, sizes), sound), strict=True
        ):
            if not are_same:
                found.problems.append(Problem(pair[1], f"is not the same as {pair[0]}"))
    for backup in found.backups:
        if not found.needs.add(backup):
            why = what_of(found.needs.unreadable[-1].error, layout.manifest(backup.id))
            found.problems.append(Problem(layout.manifest(backup.id), why, (backup.id,)))


def _sizes(repository: Repository, layout: Layout) -> dict[str, int]:
    return {
        info.key: info.size_bytes
        for prefix in (layout.manifests, layout.manifest_copies)
        for info in repository.store.list(prefix)
    }


def _are_same(repository: Repository, pair: tuple[str, str], sizes: Mapping[str, int]) -> bool:
    """Whether the two copies of a manifest have one size, and one hash in their trailers."""
    first, second = (sizes.get(key) for key in pair)
    if first is None or second is None:
        return True  # deleted meanwhile, or listed late
    if first != second:
        return False
    length = min(first, TRAILER_SIZE)
    try:
        one, other = (repository.store.get_range(key, first - length, length) for key in pair)
    except ObjectNotFound:
        return True
    return one == other


def _look_at_packs(
    repository: Repository, layout: Layout, found: Inspection, progress: Progress
) -> None:
    progress.phase(f"looking for {len(found.needs)} packs")
    seen: set[str] = set()
    wrong: dict[str, str] = {}
    # A listing ascends, and so one pass over both in order would do; a set of what was seen costs
    # the same as what is looked for, and does not rely on it.
    for info in repository.store.list(layout.packs):
        expected = found.needs.expected(info.key)
        if expected is None:
            continue
        seen.add(info.key[len(layout.packs) :])
        if info.size_bytes != expected[0]:
            wrong[info.key] = _other_size(info.size_bytes, expected[0])
    unseen = (key for key in found.needs.named() if key[len(layout.packs) :] not in seen)
    wrong.update(_ask_for(repository, found.needs, unseen))
    for key, backups in sorted(found.needs.backups_of(wrong).items()):
        found.problems.append(Problem(key, wrong[key], tuple(backups)))


def _ask_for(
    repository: Repository, needs: Needs, keys: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with packs that are not listed, many asked for at once: there are stores that
    list late, and others that have lost a folder of a hundred thousand."""

    def ask(key: str) -> str | None:
        expected = needs.expected(key)
        try:
            size = repository.store.head(key).size_bytes
        except ObjectNotFound:
            return "is missing"
        is_other = expected is not None and size != expected[0]
        return _other_size(size, expected[0]) if expected is not None and is_other else None

    rest = iter(keys)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        while some := list(islice(rest, _ASKED_AT_ONCE)):
            for key, what in zip(some, pool.map(ask, some), strict=True):
                if what is not None:
                    yield key, what


def _other_size(size: int, expected: int) -> str:
    return f"has {size} bytes instead of {expected}"


def _look_at_wal(repository: Repository, layout: Layout, found: Inspection) -> None:
    size = found.backups[-1].head.wal_segment_size if found.backups else _USUAL_SEGMENT
    damaged: list[DamagedObject] = []
    inventory = read_inventory(repository, layout, size, damaged=damaged.append)
    for error in damaged:
        key = str(error.facts.get("object", layout.history))
        windows = found.impact(key, layout)
        found.problems.append(Problem(key, what_of(error, key), _on(found, key, layout), windows))
    known = {str(one.facts.get("object")) for one in damaged}
    absent: dict[_Stretch, _Absent] = {}
    for backup in found.backups:
        for stretch in _missing_segments(backup, inventory):
            absent.setdefault(stretch, _Absent([], [])).backups.append(backup.id)
        timeline = backup.head.timeline
        history = layout.wal_file(f"{timeline:08X}.history")
        if inventory.history(timeline) is None and history not in known:
            found.problems.append(Problem(history, "is missing", (backup.id,)))
    for timeline in sorted(inventory.segments):
        history = layout.wal_file(f"{timeline:08X}.history")
        is_told = history in known or any(one.key == history for one in found.problems)
        if inventory.history(timeline) is None and not is_told:
            windows = found.impact(history, layout)
            found.problems.append(Problem(history, "is missing", (), windows))
    first = min((segment_number(one.start_lsn, size) for one in found.backups), default=None)
    for gap in inventory.gaps() if first is not None else ():
        if first is not None and _number(gap.last, size) >= first:
            _add_gap(absent, gap)
    for stretch, effect in absent.items():
        key, windows = layout.wal_file(stretch.first), tuple(effect.windows)
        found.problems.append(Problem(key, str(stretch), tuple(effect.backups), windows))
    found.windows = tuple(recovery_windows(repository, layout, found.backups, inventory))


class _Stretch(NamedTuple):
    """Segments in a row that are missing."""

    first: str
    last: str
    segments: int

    def __str__(self) -> str:
        if self.segments == 1:
            return "is missing"
        return f"{self.segments} segments from {self.first} to {self.last} are missing"


class _Absent(NamedTuple):
    """What breaks by it."""

    backups: list[str]
    windows: list[str]


def _missing_segments(backup: Backup, inventory: WalInventory) -> Iterator[_Stretch]:
    """The stretches of a backup's own WAL that are not there."""
    row: list[str] = []
    for name in [*_segments(backup), ""]:
        if name and not _has(inventory, name):
            row.append(name)
        elif row:
            yield _Stretch(row[0], row[-1], len(row))
            row = []


def _add_gap(absent: dict[_Stretch, _Absent], gap: Gap) -> None:
    """A hole in stored WAL, as one with what backups miss of it."""
    inside = [one for one in absent if gap.first <= one.first and one.last <= gap.last]
    backups = dict.fromkeys(name for one in inside for name in absent.pop(one).backups)
    cut = f"no moment of timeline {int(gap.timeline)} behind it is reached from a backup before it"
    absent[_Stretch(gap.first, gap.last, gap.segments)] = _Absent([*backups], [cut])


def _on(found: Inspection, key: str, layout: Layout) -> tuple[str, ...]:
    """Backups of the timeline whose history file this is."""
    timeline = int(key[len(layout.history) :][:8] or "0", 16)
    return tuple(one.id for one in found.backups if one.head.timeline == timeline)


def _segments(backup: Backup) -> list[str]:
    head = backup.head
    size = head.wal_segment_size
    return list(segments_between(backup.start_lsn, backup.stop_lsn, head.timeline, size))


def _has(inventory: WalInventory, name: str) -> bool:
    return inventory.has(int(name[:8], 16), _number(name, inventory.segment_size))


def _number(name: str, segment_size: int) -> int:
    per_log = (1 << 32) // segment_size
    return int(name[8:16], 16) * per_log + int(name[16:24], 16)
