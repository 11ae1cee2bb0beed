"""Fetching one WAL file for recovery.

The one distinction that matters: *positively absent* (``WalNotFound``), upon which recovery ends
and the server promotes, against everything else. Absent is said only when

* the repository was opened and is the one that this host knows,
* the cluster's system identifier is registered under the cluster's name, so that we looked in the
  right place,
* the store said of this very key that there is nothing, and
* the restore's plan, if there is one, does not count on the file.

A file is written only if it is what its name says: every frame authenticated, the salted hash of
the whole equal, a segment of the cluster's segment size, its first page header of this system and
this position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pgkeep.archive.landing import Landing
from pgkeep.archive.source import parsed_name
from pgkeep.errors import ArchiveError, DamagedObject, ObjectNotFound, WalNotFound
from pgkeep.postgres.segment import check_segment, parse_segment_header
from pgkeep.postgres.wal_name import WalKind, WalName
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import check_system
from pgkeep.repository.wal import WalHeader, open_wal_object
from pgkeep.seal import envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pgkeep.archive.cluster import LocalCluster
    from pgkeep.repository.identity import Repository
    from pgkeep.repository.wal_plan import WalPlan
    from pgkeep.storage.interface import Store


class PlannedWalMissing(ArchiveError):
    """The store says that a file does not exist which the restore counts on."""


class FetchSource(NamedTuple):
    """Where a cluster's WAL comes from; ``any_magic`` accepts an unknown major version."""

    repository: Repository
    cluster: LocalCluster
    layout: Layout
    any_magic: bool = False


def fetch_file(
    name: str,
    target: str,
    source: FetchSource,
    *,
    plan: WalPlan | None = None,
    on_found: Callable[[int], None] | None = None,
) -> int:
    """Write the file ``name`` to ``target``, durable on return; returns its size in bytes.

    ``on_found`` is told the stored size before the transfer begins (it costs one request).
    Raises ``WalNotFound`` (positively absent), ``PlannedWalMissing``, ``UnknownSystem``,
    ``IdentityNeeded``, ``DamagedObject``, ``ForeignWal``, ``LocalIOError``, ``UsageError``, and
    what the store raises.
    """
    parsed = parsed_name(name)
    try:
        return _transfer(parsed, target, source, source.repository.store, on_found)
    except ObjectNotFound as error:
        raise _absent(name, source, plan) from error
    except DamagedObject:
        # Bytes can also be damaged on their way; what is damaged at rest stays so, and another
        # repository may have a sound copy.
        from pgkeep.storage.fallback import read_sound

        key = source.layout.wal_file(name)
        return read_sound(
            source.repository.store, key, lambda store: _transfer(parsed, target, source, store)
        )


def _transfer(
    name: WalName,
    target: str,
    source: FetchSource,
    store: Store,
    on_found: Callable[[int], None] | None = None,
) -> int:
    key, keyring = source.layout.wal_file(name.name), source.repository.keyring
    if on_found is not None:
        on_found(store.head(key).size_bytes)
    data = store.get(key)
    header, frames = open_wal_object(data, key, keyring)
    if _is_segment(name) and header.size != source.cluster.segment_size:
        whole = source.cluster.segment_size
        raise envelope.damaged(key, f"it has {header.size} bytes, and a segment has {whole}")
    with Landing(target) as landing:
        landing.write(_checked(frames, header, name, key=key, source=source))
        landing.finish()
    return header.size


def _checked(
    frames: Iterable[bytes], header: WalHeader, name: WalName, *, key: str, source: FetchSource
) -> Iterator[bytes]:
    """Pass the pieces on; raises before the end if the whole is not what it should be."""
    from blake3 import blake3

    hasher: Any = blake3(bytes.fromhex(header.salt))
    size = 0
    for piece in frames:
        if size == 0 and _is_segment(name):
            _check_start(piece, name, source)
        size += len(piece)
        hasher.update(piece)
        yield piece
    if size != header.size or hasher.hexdigest() != header.blake3:
        raise envelope.damaged(key, "its content is not what was pushed")


def _check_start(piece: bytes, name: WalName, source: FetchSource) -> None:
    check_segment(
        parse_segment_header(piece),
        name,
        system_identifier=source.cluster.system_identifier,
        segment_size=source.cluster.segment_size,
        allow_unknown_magic=source.any_magic,
    )


def _is_segment(name: WalName) -> bool:
    return name.kind is WalKind.SEGMENT or name.kind is WalKind.PARTIAL


def _absent(name: str, source: FetchSource, plan: WalPlan | None) -> ArchiveError:
    store = source.repository.store
    check_system(store, source.layout.cluster, source.cluster.system_identifier)
    if plan is not None and plan.names(name):
        return PlannedWalMissing(
            f"{name} is not in the repository, and this recovery needs it.",
            why=f"It was there when the restore began; {store.url} says that it is gone.",
            remedy="Bring it back from a copy of the repository, or restore to a moment before "
            "it. Recovery must not go on without it.",
            segment=name,
        )
    return WalNotFound(
        f"{name} is not in the repository.",
        why=f"{store.url} has nothing at {source.layout.wal_file(name)}.",
        remedy="At the end of recovery this is as it should be.",
        segment=name,
    )
