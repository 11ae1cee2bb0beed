"""The head of a manifest: enough to list a backup (format, section 7).

It is JSON from a store, so each member is checked against its type, and what others compute with
(positions, moments, sizes) is parsed once, here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import NoneType
from typing import Any

from pgkeep.errors import DamagedObject
from pgkeep.postgres.lsn import Lsn, Timeline
from pgkeep.postgres.wal_name import check_segment_size
from pgkeep.seal import envelope
from pgkeep.units import from_utc_text

_TYPES = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "str | None": (str, NoneType),
}


@dataclass(frozen=True)
class Head:
    """Enough to list a backup. Moments are UTC text, LSNs PostgreSQL's text."""

    backup: str
    attempt: str
    cluster: str
    system_identifier: str
    kind: str
    parent: str | None
    started: str
    ended: str
    start_lsn: str
    stop_lsn: str
    timeline: int
    wal_segment_size: int
    page_size: int
    checksums: bool
    postgres: str
    postgres_major: int
    files: int
    database_bytes: int
    added_bytes: int
    stored_bytes: int
    failed_pages: int
    from_standby: bool
    host: str
    level: int
    note: str
    copy_seconds: float
    total_seconds: float
    pgkeep: str
    partial: bool = False


def parse_head(data: bytes, key: str) -> Head:
    """The head of the manifest stored as ``key``, every member of its type.

    Raises ``DamagedObject``, also when it is another cluster's or backup's.
    """
    members = envelope.json_object(data, key, "its head")
    known: dict[str, Any] = {}
    for field in fields(Head):
        if field.name in members or field.name != "partial":
            value = members.get(field.name)
            wrong_bool = isinstance(value, bool) and field.type != "bool"
            if wrong_bool or not isinstance(value, _TYPES[str(field.type)]):  # type: ignore[arg-type]
                raise envelope.damaged(key, f"{field.name!r} of its head is missing or malformed")
            known[field.name] = value
    head = Head(**known)
    _check_place(head, key)
    if not head.partial:
        _check_values(head, key)
    return head


def _check_place(head: Head, key: str) -> None:
    """A manifest belongs to its cluster and system, and to its name."""
    parts = key.split("/")
    where = parts[-4:-2]
    if head.partial:
        where = parts[-5:-3]
        own, name = head.attempt, parts[-2] if len(parts) > 1 else ""
    else:
        own, name = head.backup, parts[-1]
    same = not where or where == [head.cluster, head.system_identifier]
    if (
        head.partial != (object_type_of(key) == envelope.PARTIAL_MANIFEST)
        or own != name
        or not same
    ):
        raise DamagedObject(
            f"{key} is the manifest of {own} of {head.cluster} ({head.system_identifier}), "
            "in the wrong place.",
            remedy="Restore this object from a copy of the repository.",
            object=key,
        )


def _check_values(head: Head, key: str) -> None:
    """What others compute with must be what it looks like."""
    try:
        from_utc_text(head.started), from_utc_text(head.ended)
        Lsn.parse(head.start_lsn), Lsn.parse(head.stop_lsn), Timeline(head.timeline)
        check_segment_size(head.wal_segment_size)
    except (ValueError, OverflowError) as error:
        raise envelope.damaged(key, f"its head is malformed ({error})") from error
    sizes = (head.files, head.database_bytes, head.added_bytes, head.stored_bytes)
    power_of_two = head.page_size & (head.page_size - 1) == 0
    if min(*sizes, head.failed_pages) < 0 or not (512 <= head.page_size <= 65536 and power_of_two):
        raise envelope.damaged(key, "its head names impossible sizes")


def object_type_of(key: str) -> int:
    """What lies under ``partials/`` is a partial manifest."""
    return envelope.PARTIAL_MANIFEST if "/partials/" in key else envelope.MANIFEST
