"""Why a target cannot be reached, and what can be reached instead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgkeep.errors import TargetNotReachable
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.repository.catalogue import Backup
from pgkeep.restore.neighbours import Neighbours
from pgkeep.restore.plan import describe_target, show_moment_exactly
from pgkeep.restore.search import WalReader, look_at_tail
from pgkeep.restore.way import Hole, Way
from pgkeep.units import show_moment


def no_backup(
    target: RecoveryTarget, why: str, *, nearest: str | None = None
) -> TargetNotReachable:
    """No backup precedes the target."""
    return TargetNotReachable(
        f"Cannot restore to {describe_target(target)}: {why}.",
        remedy=nearest or "pgkeep list shows the moments that can be reached.",
    )


def missing_wal(
    reader: WalReader, target: RecoveryTarget, way: Way, hole: Hole, usable: Sequence[Backup]
) -> TargetNotReachable:
    """Segments are missing between the backup and the target."""
    names = way.name(hole.first)
    if hole.size > 1:
        names += f" to {way.name(hole.last)}"
    before = look_at_tail(reader, way.segments).last_commit if way.segments else None
    before = before or usable[0].ended
    beyond = (hole.last.number + 1) * way.segment_size
    after = next((backup.ended for backup in usable if backup.start_lsn >= beyond), None)
    nearest = f"{show_moment_exactly(before)} before"
    if after is not None:
        nearest += f", {show_moment_exactly(after)} after"
    segments = "1 segment" if hole.size == 1 else f"{hole.size} segments"
    return TargetNotReachable(
        f"Cannot restore to {describe_target(target)}: WAL is missing ({segments}, {names}).",
        why=f"Recovery would end there. The nearest moments that can be reached: {nearest}.",
        remedy="If the server still has them in pg_wal, push them (pgkeep wal-push); if it is "
        "archiving right now, try again in a moment.",
        missing_first=way.name(hole.first),
        missing_last=way.name(hole.last),
        before=before,
        after=after,
    )


def beyond_the_end(
    target: RecoveryTarget, way: Way, closed: datetime, last_record: Lsn | None
) -> TargetNotReachable:
    """The target is a position that WAL has not reached, as far as it is stored."""
    return TargetNotReachable(
        f"Cannot restore to {describe_target(target)}: stored WAL ends with "
        f"{way.name(way.segments[-1])}, closed at {show_moment(closed)}.",
        why=f"The last record is at {last_record}.",
        remedy="Restore with --latest to get all there is.",
    )


def not_in_wal(
    target: RecoveryTarget,
    oldest: Backup,
    newest: Way,
    *,
    near: Neighbours,
    remembered: Sequence[str] = (),
) -> TargetNotReachable:
    """No such transaction or restore point was found, or only before a backup is consistent;
    ``remembered`` are the points that are known."""
    known = f" Remembered restore points: {', '.join(remembered[-20:])}." if remembered else ""
    found = near.itself
    if found is not None:
        return TargetNotReachable(
            f"Cannot restore to {describe_target(target)}: it lies before the first moment that "
            "can be reached.",
            why=f"It is at {found.lsn}, and backup {oldest.id} is consistent from "
            f"{oldest.stop_lsn} on.",
            remedy="The nearest moment that can be reached: "
            f"{show_moment_exactly(oldest.ended)} (--immediate --backup {oldest.id}).",
        )
    searched = (
        f"WAL was searched from the start of backup {oldest.id} ({oldest.head.start_lsn}) up "
        f"to {newest.name(newest.segments[-1])}, along timeline {int(newest.history.timeline)}."
    )
    return TargetNotReachable(
        f"Cannot restore to {describe_target(target)}: it is not in the stored WAL.",
        why=" ".join(filter(None, (searched, near.sentence()))),
        remedy="Check the number or name, and whether --timeline is the right one; or restore "
        f"to a moment with --time.{known}",
    )
