"""The quick level: everything that a listed backup or a recovery window needs is there.

Listings, the two manifests of each backup, and the plain headers of history files; no pack and no
segment is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound, PgkeepError, WrongIdentity
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
from pgkeep.units import show_moment
from pgkeep.verify.needs import Needs
from pgkeep.verify.problem import Problem

_USUAL_SEGMENT = 16 << 20
_SEGMENTS_NAMED = 16


@dataclass
class Inspection:
    """What was found. ``whole`` are backups of which nothing is missing."""

    needs: Needs
    backups: tuple[Backup, ...] = ()
    windows: tuple[Window, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @property
    def whole(self) -> tuple[str, ...]:
        broken = {name for problem in self.problems for name in problem.backups}
        return tuple(backup.id for backup in self.backups if backup.id not in broken)

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
        key = layout.manifest(problem.backup)
        found.problems.append(Problem(key, _why(problem.error), (problem.backup,)))
    for backup in catalogue.backups:
        _look_at_manifests(repository, layout, backup, found)
    _look_at_packs(repository, layout, found, progress)
    _look_at_wal(repository, layout, found)
    return found


def _look_at_manifests(
    repository: Repository, layout: Layout, backup: Backup, found: Inspection
) -> None:
    """Both copies, each by itself: one alone suffices, and is one loss away from none."""
    for key in (layout.manifest(backup.id), layout.manifest_copy(backup.id)):
        try:
            read_head(repository.store, key, repository.keyring)
        except ObjectNotFound:
            found.problems.append(Problem(key, "is missing; the other copy is there"))
        except (DamagedObject, FormatTooNew, WrongIdentity) as error:
            found.problems.append(Problem(key, f"{_why(error)}; the other copy was read"))
    if not found.needs.add(backup):
        why = _why(found.needs.unreadable[-1].error)
        found.problems.append(Problem(layout.manifest(backup.id), why, (backup.id,)))


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
            wrong[info.key] = f"has {info.size_bytes} bytes instead of {expected[0]}"
    for key in found.needs.named():
        if key[len(layout.packs) :] in seen:
            continue
        try:  # there are stores that list late
            size = repository.store.head(key).size_bytes
        except ObjectNotFound:
            wrong[key] = "is missing"
        else:
            expected = found.needs.expected(key)
            if expected is not None and size != expected[0]:
                wrong[key] = f"has {size} bytes instead of {expected[0]}"
    for key, backups in sorted(found.needs.backups_of(wrong).items()):
        found.problems.append(Problem(key, wrong[key], tuple(backups)))


def _look_at_wal(repository: Repository, layout: Layout, found: Inspection) -> None:
    size = found.backups[-1].head.wal_segment_size if found.backups else _USUAL_SEGMENT
    damaged: list[DamagedObject] = []
    inventory = read_inventory(repository, layout, size, damaged=damaged.append)
    for error in damaged:
        key = str(error.facts.get("object", layout.history))
        windows = found.impact(key, layout)
        found.problems.append(Problem(key, _why(error), _on(found, key, layout), windows))
    for backup in found.backups:
        missing = [name for name in _segments(backup) if not _has(inventory, name)]
        for name in missing[:_SEGMENTS_NAMED]:
            key = layout.wal_file(name)
            found.problems.append(Problem(key, "is missing", (backup.id,)))
        timeline = backup.head.timeline
        known = {str(one.facts.get("object")) for one in damaged}
        history = layout.wal_file(f"{timeline:08X}.history")
        if inventory.history(timeline) is None and history not in known:
            found.problems.append(Problem(history, "is missing", (backup.id,)))
    first = min((segment_number(one.start_lsn, size) for one in found.backups), default=None)
    for gap in inventory.gaps() if first is not None else ():
        if first is not None and _number(gap.last, size) >= first:
            found.problems.append(_gap(gap, layout))
    found.windows = tuple(recovery_windows(repository, layout, found.backups, inventory))


def _gap(gap: Gap, layout: Layout) -> Problem:
    count = f"{gap.segments} segments up to {gap.last} are" if gap.segments > 1 else "is"
    cut = f"no moment of timeline {int(gap.timeline)} behind it is reached from a backup before it"
    return Problem(layout.wal_file(gap.first), f"{count} missing", (), (cut,))


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


def _why(error: Exception) -> str:
    return error.what if isinstance(error, PgkeepError) else str(error)
