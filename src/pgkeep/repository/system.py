"""Which system identifiers a cluster name stands for (format, section 2.3).

The guard against two servers archiving under one name: a system identifier that no record names
is refused, until the user says that it is meant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, UnknownSystem
from pgkeep.repository.layout import numbered, systems
from pgkeep.repository.record import (
    build_record,
    list_numbered,
    member,
    publish,
    read_record,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgkeep.storage.interface import Store


class System(NamedTuple):
    """One registered system identifier; ``since`` is UTC text."""

    system_identifier: int
    postgres_major: int
    since: str
    host: str


def read_systems(store: Store, cluster: str) -> list[System]:
    """All system identifiers of a cluster, oldest first; the last is the present one."""
    listed = list_numbered(store, systems(cluster))
    return [_parse(store, info.key) for info in listed]


def register_system(
    store: Store,
    cluster: str,
    system_identifier: int,
    *,
    postgres_major: int,
    new_system: bool,
    at: str,
    by: dict[str, Any],
) -> bool:
    """Make a system identifier known under a cluster name; False when it already was.

    Raises ``UnknownSystem`` when the name stands for another cluster and ``new_system`` is not set.
    """

    def build(number: int) -> bytes:
        # The record before is asked for by its key: what one listing shows, another may not.
        key = numbered(systems(cluster), number - 1)
        last = _parse(store, key) if number > 1 else None
        if last and last.system_identifier == system_identifier:
            raise _AlreadyKnown
        if last and not new_system:
            raise unknown_system(cluster, system_identifier, last)
        members = {
            "system_identifier": str(system_identifier),
            "postgres_major": postgres_major,
            "reason": "new-system" if last else "first",
        }
        return build_record("system", members, at=at, by=by)

    try:
        publish(store, systems(cluster), build)
    except _AlreadyKnown:
        return False
    return True


def check_system(store: Store, cluster: str, system_identifier: int) -> None:
    """Raise ``UnknownSystem`` unless this identifier is registered under the name."""
    known = read_systems(store, cluster)
    if any(system.system_identifier == system_identifier for system in known):
        return
    if not known:
        raise UnknownSystem(
            f"The cluster {cluster!r} is not known in {store.url}.",
            remedy="Run pgkeep init first.",
        )
    raise unknown_system(cluster, system_identifier, known[-1])


def unknown_system(cluster: str, system_identifier: int, known: System) -> UnknownSystem:
    """The refusal of a second cluster under one name."""
    return UnknownSystem(
        f"The name {cluster!r} belongs to another cluster: system {known.system_identifier}, "
        f"known since {known.since} from {known.host}; this server is system {system_identifier}.",
        why="It was created anew (initdb, pg_upgrade), or two servers use one name.",
        remedy="If this server takes the old one's place, run pgkeep init --new-system; "
        "if both live, give this one a name of its own (PGKEEP_CLUSTER).",
        cluster=cluster,
        known=known.system_identifier,
        found=system_identifier,
    )


def _parse(store: Store, key: str) -> System:
    members = read_record(store, key, kind="system")
    identifier = member(members, "system_identifier", str, name=key)
    if not (identifier.isascii() and identifier.isdigit() and 0 < len(identifier) <= 20):
        raise DamagedObject(f"{key} is damaged: its system identifier is malformed.")
    return System(
        int(identifier),
        member(members, "postgres_major", int, name=key),
        members["at"],
        str(members["by"].get("host", "?")),
    )


class _AlreadyKnown(Exception):
    pass
