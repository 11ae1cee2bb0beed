"""What one repository has of a cluster's system, as its listing tells: keys and sizes.

A backup is *there* if one of its manifests is and no void of it: a void counts in its own
repository only, since it speaks of that one's packs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.mirror.member import Member
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import parse_wal_name, segment_of, segment_start_lsn
from pgkeep.repository.horizons import read_horizons
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import read_head
from pgkeep.repository.trash import read_trash
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Store

Sizes = dict[str, int]
"""The size of objects by their key."""


class Holdings(NamedTuple):
    """Sizes by key. ``manifests`` are under both prefixes; ``voids`` are names of backups that
    were taken back there, or thrown away. Below ``horizons`` WAL was given up."""

    manifests: Sizes
    voids: frozenset[str]
    wal: Sizes
    horizons: Mapping[int, Lsn] = MappingProxyType({})

    def backups(self, layout: Layout) -> set[str]:
        """The backups that are there."""
        return {key.rpartition("/")[2] for key in self.manifests} - self.voids

    def differ(self, layout: Layout, other: Holdings) -> list[str]:
        """Backups that are there in both, and are not the same: two repositories that did not know
        of each other may each have made one within the same second."""
        keys = self.manifests.keys() & other.manifests.keys()
        odd = {
            key.rpartition("/")[2] for key in keys if self.manifests[key] != other.manifests[key]
        }
        return sorted(odd & self.backups(layout) & other.backups(layout))

    def lacks(self, layout: Layout, backup: str) -> bool:
        """Whether a copy of the backup's manifest is missing, and may be made."""
        both = {layout.manifest(backup), layout.manifest_copy(backup)}
        return backup not in self.voids and not both <= self.manifests.keys()

    def gave_up(self, key: str, segment_size: int) -> bool:
        """Whether this WAL file lies below the horizon."""
        try:
            parsed = parse_wal_name(key.rpartition("/")[2])
            horizon = self.horizons.get(parsed.timeline)
            number = None if horizon is None else segment_of(parsed, segment_size)
        except ValueError:
            return False  # a history, or not PostgreSQL's
        if horizon is None or number is None:
            return False
        return segment_start_lsn(number + 1, segment_size) <= horizon


def holdings(member: Member, layout: Layout) -> Holdings:
    """List it. Manifests come first: whoever sees one may count on its packs and its WAL."""
    store = member.store
    manifests = sizes_of(store, layout.manifests, layout.manifest_copies)
    voids = {info.key.rpartition("/")[2] for info in store.list(layout.voids)}
    trash = read_trash(store, layout)
    voids |= {name for name in trash.states if trash.is_out(name)}
    wal = sizes_of(store, layout.history, layout.wal)
    return Holdings(manifests, frozenset(voids), wal, read_horizons(store, layout))


def segment_size_of(
    store: Store, listed: Iterable[Holdings], keyring: Keyring, *, default: int
) -> int:
    """The system's WAL segment size by any of its manifests; ``default`` where none can be read."""
    if keyring.can_read_metadata:
        for key in (key for one in listed for key in one.manifests):
            try:
                return read_head(store, key, keyring).wal_segment_size
            except (DamagedObject, ObjectNotFound):
                continue
    return default


def sizes_of(store: Store, *prefixes: str) -> Sizes:
    """What is there under these prefixes."""
    return {info.key: info.size_bytes for prefix in prefixes for info in store.list(prefix)}
