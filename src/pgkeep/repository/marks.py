"""Restore points that were remembered (format, section 2.8).

A mark only tells where to look: whether the restore point can be reached is found out from the
WAL itself, and one that was made without pgkeep is found there, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound
from pgkeep.postgres.lsn import Lsn, Timeline
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record, list_numbered, member, publish, read_record
from pgkeep.storage.fallback import stores_of
from pgkeep.storage.interface import Store

RESTORE_POINT = "restore-point"


@dataclass(frozen=True)
class RestorePoint:
    """A named position in the WAL: the end of its record. ``at`` is UTC text."""

    name: str
    lsn: Lsn
    timeline: Timeline
    at: str


def remember_restore_point(
    store: Store, layout: Layout, point: RestorePoint, *, by: Mapping[str, Any]
) -> None:
    """Publish it as a mark; returns when it is durable. Raises what the store raises."""
    members = {
        "kind": RESTORE_POINT,
        "name": point.name,
        "lsn": str(point.lsn),
        "timeline": int(point.timeline),
    }
    record = build_record("mark", members, at=point.at, by=dict(by))
    publish(store, layout.marks, lambda _: record)


def read_restore_points(store: Store, layout: Layout) -> list[RestorePoint]:
    """All that are remembered in any of the repositories that ``store`` reads, oldest first.

    Each numbers its marks by itself. Those that cannot be read are left out, for they only inform.
    Raises what the store raises.
    """
    found: dict[RestorePoint, None] = {}
    for one in stores_of(store):
        for info in list_numbered(one, layout.marks):
            try:
                point = _parse(read_record(one, info.key, kind="mark"), info.key)
            except (DamagedObject, FormatTooNew, ObjectNotFound):
                continue
            if point is not None:
                found[point] = None
    return sorted(found, key=lambda point: point.at)


def _parse(members: dict[str, Any], key: str) -> RestorePoint | None:
    """None for a mark of another kind."""
    if member(members, "kind", str, name=key) != RESTORE_POINT:
        return None
    name, lsn = member(members, "name", str, name=key), member(members, "lsn", str, name=key)
    timeline = member(members, "timeline", int, name=key)
    try:
        return RestorePoint(name, Lsn.parse(lsn), Timeline(timeline), members["at"])
    except ValueError as error:
        raise DamagedObject(f"{key} is damaged: {error}.", object=key) from error
