"""Backups that were given up (format, section 2.9): in the trash, back out of it, or going.

A backup goes in two steps. In the trash it counts no more, and its bytes are all there; that is
undone by one record. When its bytes begin to go, a record says so before, and from then on there is
no way back. The numbers of these records put the two in an order: whoever publishes one looks at
all that have a lower number, so an undelete comes before the deletion or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record, list_numbered, member, parse_record, publish
from pgkeep.storage.interface import ObjectInfo, Store

TRASH, UNDELETE, DELETING = "trash", "undelete", "deleting"
_KINDS = (TRASH, UNDELETE, DELETING)
_REQUESTS = 16


class Given(NamedTuple):
    """The newest word on a backup. ``since`` is the store's clock."""

    kind: str
    reason: str
    since: datetime
    key: str


class Trash(NamedTuple):
    """The newest word on each backup that any record names; ``records`` are all keys read, with
    what each names."""

    states: Mapping[str, Given]
    records: Mapping[str, frozenset[str]]

    def is_out(self, backup: str) -> bool:
        """Whether it does not count: in the trash, or going."""
        found = self.states.get(backup)
        return found is not None and found.kind != UNDELETE

    def is_in_trash(self, backup: str) -> bool:
        found = self.states.get(backup)
        return found is not None and found.kind == TRASH

    def is_going(self, backup: str) -> bool:
        found = self.states.get(backup)
        return found is not None and found.kind == DELETING


NOTHING = Trash({}, {})


def read_trash(store: Store, layout: Layout, *, strict: bool = False) -> Trash:
    """What this one store says. A record that is damaged is passed over, so that its backup counts;
    with ``strict``, for whoever deletes, it is an error.

    Raises ``DamagedObject``, ``FormatTooNew``, and what the store raises.
    """
    infos = list(list_numbered(store, layout.admin("trash")))
    if not infos:
        return NOTHING

    def read(info: ObjectInfo) -> tuple[ObjectInfo, str, str, frozenset[str]] | None:
        try:
            return (info, *_parse(store.get(info.key), info.key))
        except ObjectNotFound:
            return None  # it was compacted meanwhile
        except DamagedObject:
            if strict:
                raise
            return None

    states: dict[str, Given] = {}
    records: dict[str, frozenset[str]] = {}
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for found in filter(None, pool.map(read, infos)):
            info, kind, reason, backups = found
            records[info.key] = backups
            for backup in backups:
                states[backup] = Given(kind, reason, info.modified, info.key)
    return Trash(states, records)


def give_word(
    store: Store,
    layout: Layout,
    kind: str,
    backups: Callable[[Trash], Collection[str]],
    *,
    reason: str,
    at: str,
    by: Mapping[str, Any],
) -> list[str]:
    """Publish a record on the ``backups`` that remain when all that was said before is known.

    ``backups`` is asked again whenever somebody else was faster; it may raise. Returns those that
    the record names; without any, none is published. Raises what the store raises.
    """
    chosen: list[str] = []

    def build(number: int) -> bytes:
        chosen[:] = sorted(backups(read_trash(store, layout, strict=True)))
        if not chosen:
            raise _Nothing
        return build_record(kind, {"backups": chosen, "reason": reason}, at=at, by=dict(by))

    try:
        publish(store, layout.admin("trash"), build)
    except _Nothing:
        return []
    return list(chosen)


def _parse(data: bytes, name: str) -> tuple[str, str, frozenset[str]]:
    members = parse_record(data, name, kind=_KINDS)
    backups = member(members, "backups", list, name=name)
    if not all(isinstance(backup, str) for backup in backups):
        raise DamagedObject(f"{name} is damaged: not all of its backups are text.", object=name)
    return members["type"], member(members, "reason", str, name=name), frozenset(backups)


class _Nothing(Exception):
    pass
