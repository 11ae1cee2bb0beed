"""Which packs a sweep is about to delete (format, sections 2.9 and 11).

A sweep says so an hour before it does, in records that are numbered: of those that name a key the
newest says whether it is condemned, or spared after all. Whoever works from packs reads them after
it has created its pin, and takes nothing that they name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import (
    build_record,
    list_numbered,
    member,
    parse_record,
    publish,
)
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.together import each

_KINDS = ("condemned", "spared")
_KEYS_A_RECORD = 10_000
GRACE_SECONDS = 3600
"""The least time between saying that a pack will be deleted, and deleting it."""


class Condemned(NamedTuple):
    """``due`` maps each condemned key to the moment, by the store's clock, from which on it may be
    deleted. ``records`` are all records by their keys, ascending, with what each names."""

    due: dict[str, datetime]
    records: dict[str, list[str]]


def condemned_keys(store: Store, layout: Layout) -> set[str]:
    """All keys that are condemned now. Raises ``DamagedObject``, ``FormatTooNew``."""
    return set(read_condemned(store, layout).due)


def read_condemned(store: Store, layout: Layout) -> Condemned:
    """What is condemned now, and until when it is safe. Raises as :func:`condemned_keys`."""

    def read(info: ObjectInfo) -> tuple[str, datetime | None, list[str]] | None:
        try:
            data = store.get(info.key)
        except ObjectNotFound:
            return None  # nothing of it was condemned any more
        seconds, keys = _parse(data, info.key)
        due = None if seconds is None else info.modified + timedelta(seconds=seconds)
        return info.key, due, keys

    found = Condemned({}, {})
    infos = list_numbered(store, layout.admin("condemned"))
    for name, due, keys in filter(None, each(read, infos)):
        found.records[name] = keys
        for key in keys:
            if due is None:
                found.due.pop(key, None)
            else:
                found.due[key] = due
    return found


def condemn(
    store: Store, layout: Layout, keys: Sequence[str], *, at: str, by: Mapping[str, Any]
) -> None:
    """Say of each that it will be deleted, in records of a bearable size. Returns when that is
    durable. Raises what the store raises."""
    _publish(store, layout, "condemned", keys, {"grace_seconds": GRACE_SECONDS}, at=at, by=by)


def spare(
    store: Store, layout: Layout, keys: Sequence[str], *, at: str, by: Mapping[str, Any]
) -> None:
    """Say of each that it stays after all. Raises what the store raises."""
    _publish(store, layout, "spared", keys, {}, at=at, by=by)


def _publish(
    store: Store,
    layout: Layout,
    kind: str,
    keys: Sequence[str],
    more: Mapping[str, Any],
    *,
    at: str,
    by: Mapping[str, Any],
) -> None:
    for start in range(0, len(keys), _KEYS_A_RECORD):
        members = {"keys": list(keys[start : start + _KEYS_A_RECORD]), **more}
        record = build_record(kind, members, at=at, by=dict(by))
        publish(store, layout.admin("condemned"), lambda _, record=record: record)  # type: ignore[misc]


def _parse(data: bytes, name: str) -> tuple[int | None, list[str]]:
    """The grace in seconds of a record that condemns, None of one that spares, and its keys."""
    members = parse_record(data, name, kind=_KINDS)
    keys = member(members, "keys", list, name=name)
    if not all(isinstance(key, str) for key in keys):
        raise DamagedObject(f"{name} is damaged: not all of its keys are text.", object=name)
    if members["type"] != "condemned":
        return None, keys
    return max(GRACE_SECONDS, member(members, "grace_seconds", int, name=name)), keys
