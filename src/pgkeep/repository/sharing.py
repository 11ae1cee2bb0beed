"""Which packs backups have in common: what one of them shares, and what deleting it would free.

Since an increment stores only what changed, the size of a backup says little of what it costs. That
follows from who else names its packs, which only whole manifests tell. They are read a few at a
time, and of each is kept only what it names of the packs in question: so a hundred backups of a
large cluster need no more memory than a few manifests and the names of one's packs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pgkeep.errors import DamagedObject, FormatTooNew, NoSuchBackup, WrongIdentity
from pgkeep.repository.catalogue import Backup, load_manifest
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import Manifest

_MANIFESTS_AT_ONCE = 4
PackName = tuple[str, int]  # attempt, number


class Sharing(NamedTuple):
    """What a backup has in common with the backups ``shared_with``: the size of the packs that one
    of them names, too, and of those that none does. The second is None where a backup that cannot
    be read may name any of them; the first is then what is known of.
    """

    shared_bytes: int
    freed_bytes: int | None
    shared_with: tuple[str, ...]


def packs_of(manifest: Manifest) -> dict[PackName, int]:
    """Every pack that the manifest names, and its size in bytes."""
    return {(pack.attempt, pack.number): pack.size_bytes for pack in manifest.packs().values()}


def share(
    packs: Mapping[PackName, int], others: Mapping[str, Collection[PackName] | None]
) -> Sharing:
    """For a backup that names ``packs``; ``others`` are the packs that each other backup names,
    None for one of which that is not known."""
    common = {name: packs.keys() & (named or ()) for name, named in others.items()}
    shared = set[PackName]().union(*common.values())
    size = sum(packs[pack] for pack in shared)
    freed = None if None in others.values() else sum(packs.values()) - size
    return Sharing(size, freed, tuple(sorted(name for name, both in common.items() if both)))


def read_sharing(
    repository: Repository,
    layout: Layout,
    packs: Mapping[PackName, int],
    *,
    others: Iterable[Backup],
    unreadable: Iterable[str] = (),
) -> Sharing:
    """As :func:`share`: ``others`` are the readable backups of the catalogue, ``unreadable`` the
    names of those that are not. One that was deleted meanwhile names nothing."""

    def read(backup: Backup) -> tuple[str, Collection[PackName] | None]:
        try:
            manifest = load_manifest(repository, layout, backup)
        except NoSuchBackup:
            return backup.id, ()
        except (DamagedObject, FormatTooNew, WrongIdentity):
            return backup.id, None
        try:
            return backup.id, packs.keys() & packs_of(manifest).keys()
        except DamagedObject:
            return backup.id, None
        finally:
            manifest.close()

    with ThreadPoolExecutor(_MANIFESTS_AT_ONCE) as pool:
        return share(packs, {**dict.fromkeys(unreadable), **dict(pool.map(read, others))})
