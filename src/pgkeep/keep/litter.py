"""Records that have nothing to say any more.

Of numbered records the highest stays whatever it says, since numbers only go up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pgkeep.errors import DamagedObject
from pgkeep.keep.deleting import delete_all
from pgkeep.repository.catalogue import stored_manifests
from pgkeep.repository.holds import read_holds
from pgkeep.repository.layout import PROBES, Layout
from pgkeep.repository.record import list_numbered, member, parse_record
from pgkeep.repository.trash import DELETING, Trash, give_word, read_trash
from pgkeep.storage.interface import Store

_TRASH_RECORDS = 32
_NAMES = 5_000
_CHECKS = 256
_PROBE_LIFE = timedelta(days=1)


def compact(store: Store, layout: Layout, *, at: str, by: Mapping[str, Any], now: datetime) -> None:
    """Delete what is only litter among the records of one system. Raises what the store raises."""
    existing = set(stored_manifests(store, layout))
    delete_all(store, _old_trash(store, layout, existing, at=at, by=by))
    delete_all(store, _old_holds(store, layout, existing))
    delete_all(store, _old_horizons(store, layout))
    checks = [info.key for info in list_numbered(store, layout.checks)]
    delete_all(store, checks[:-_CHECKS])
    probes = [info.key for info in store.list(PROBES) if now - info.modified >= _PROBE_LIFE]
    delete_all(store, probes)


def _old_trash(
    store: Store, layout: Layout, existing: set[str], *, at: str, by: Mapping[str, Any]
) -> list[str]:
    """Records that name nothing that exists. What was deleted stays known, in one record: a copy
    from another repository must not bring it back."""
    if len(read_trash(store, layout, strict=True).records) <= _TRASH_RECORDS:
        return []

    def gone(trash: Trash) -> Iterable[str]:
        names = sorted(name for name in trash.states if trash.is_going(name))
        return names[-_NAMES:]

    give_word(store, layout, DELETING, lambda t: list(gone(t)), reason="gone", at=at, by=by)
    trash = read_trash(store, layout, strict=True)
    old = [key for key, names in trash.records.items() if not names & existing]
    return [key for key in old if key != max(trash.records)]


def _old_holds(store: Store, layout: Layout, existing: set[str]) -> list[str]:
    records = read_holds(store, layout).records
    newest = {backup: key for key, backup in records.items()}
    return [
        key
        for key, backup in records.items()
        if key != max(records) and (backup not in existing or newest[backup] != key)
    ]


def _old_horizons(store: Store, layout: Layout) -> list[str]:
    """All but the newest of each timeline: they only go up."""
    newest: dict[int, str] = {}
    keys = [info.key for info in list_numbered(store, layout.admin("horizon"))]
    for key in keys:
        try:
            members = parse_record(store.get(key), key, kind="horizon")
            newest[member(members, "timeline", int, name=key)] = key
        except DamagedObject:
            continue
    return [key for key in keys[:-1] if key not in newest.values()]
