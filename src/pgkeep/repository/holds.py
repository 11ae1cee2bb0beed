"""Backups that are held: kept until somebody releases them (format, section 2.9)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pgkeep.errors import ObjectNotFound
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record, list_numbered, member, parse_record, publish
from pgkeep.storage.interface import Store

HOLD, RELEASE = "hold", "release"
_REQUESTS = 16


class Hold(NamedTuple):
    """Why a backup is held, and since when (UTC text, the writer's clock)."""

    reason: str
    at: str


class Holds(NamedTuple):
    """The backups that are held, and the keys of all records with the backup that each names."""

    held: Mapping[str, Hold]
    records: Mapping[str, str]


def read_holds(store: Store, layout: Layout) -> Holds:
    """What this store says. Raises ``DamagedObject`` for a record that is: it might hold a backup
    that would else be deleted; ``FormatTooNew``, and what the store raises."""

    def read(key: str) -> tuple[str, dict[str, Any]] | None:
        try:
            return key, parse_record(store.get(key), key, kind=(HOLD, RELEASE))
        except ObjectNotFound:
            return None

    keys = [info.key for info in list_numbered(store, layout.admin("hold"))]
    held: dict[str, Hold] = {}
    records: dict[str, str] = {}
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for key, members in filter(None, pool.map(read, keys)):
            backup = member(members, "backup", str, name=key)
            records[key] = backup
            if members["type"] == HOLD:
                held[backup] = Hold(member(members, "reason", str, name=key), members["at"])
            else:
                held.pop(backup, None)
    return Holds(held, records)


def publish_hold(
    store: Store,
    layout: Layout,
    kind: str,
    backups: Collection[str],
    *,
    reason: str,
    at: str,
    by: Mapping[str, Any],
) -> None:
    """Hold or release each; returns when that is durable. Raises what the store raises."""
    for backup in backups:
        members: dict[str, Any] = {"backup": backup, "reason": reason}
        if kind == HOLD:
            members["until"] = None
        record = build_record(kind, members, at=at, by=dict(by))
        publish(store, layout.admin("hold"), lambda _, record=record: record)  # type: ignore[misc]
