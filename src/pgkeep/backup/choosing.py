"""Which parents a backup has, and making them ready.

Nothing here can make a backup wrong: a parent that cannot be used costs storing what it has again.
So what is damaged, condemned by a sweep, or hashed under a key that is not known here is passed
over, with a warning where a person should look into it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pgkeep.backup.hash_cache import HashReader
from pgkeep.backup.parent_maps import ParentMaps
from pgkeep.backup.parents import Parent, Parents
from pgkeep.backup.rebuild import rebuild_hashes
from pgkeep.backup.skipping import Skipping
from pgkeep.errors import DamagedObject, FormatTooNew, LocalIOError, ObjectNotFound, WrongIdentity
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import Backup, load_manifest, read_catalogue
from pgkeep.repository.check_records import read_checks
from pgkeep.repository.checks import CheckHistory
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import Manifest, read_manifest
from pgkeep.repository.map_rows import PackKey
from pgkeep.repository.presence import missing_packs
from pgkeep.seal.keyring import HASH_EXPLICIT, PageHashKey
from pgkeep.storage.interface import ObjectInfo
from pgkeep.storage.together import together

_PARTIAL_LIFE = timedelta(days=7)
_MOST_PARTIALS = 4
_SELF_MADE = frozenset({"backup_label", "tablespace_map"})
_UNUSABLE = (DamagedObject, FormatTooNew, WrongIdentity, ObjectNotFound)


@dataclass(frozen=True)
class Wanted:
    """What is asked of parents. ``now`` is the store's clock; ``condemned`` are keys of packs."""

    page_size: int
    now: datetime
    condemned: frozenset[str]
    is_full: bool
    read_all_every: int
    cache: Path | None


def choose_parents(
    repository: Repository, layout: Layout, wanted: Wanted, *, progress: Progress
) -> tuple[Parents, PageHashKey]:
    """The parents of a new backup, opened and surveyed, and the key under which it hashes pages.

    Raises what the store raises. What is wrong with a parent is warned of, and it is left out.
    """
    key = repository.keyring.page_hash_key()
    if not repository.keyring.can_read_metadata:
        return Parents([], None, wanted.page_size), key
    with ExitStack() as stack:
        chooser = _Chooser(repository, layout, wanted, progress, stack)
        try:
            parents, key = chooser.choose(key)
            parents.damaged = chooser.damaged_packs(parents)
            parents.survey()
        except (*_UNUSABLE, LocalIOError) as error:
            progress.warn(
                f"All pages are stored again, since the last backup cannot serve: {error}"
            )
            return Parents([], None, wanted.page_size), repository.keyring.page_hash_key()
        parents.stack = stack.pop_all()
    return parents, key


class _Chooser:
    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        wanted: Wanted,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self._repository, self._layout, self._wanted = repository, layout, wanted
        self._progress, self._stack = progress, stack
        self._checks = CheckHistory()

    def choose(self, key: PageHashKey) -> tuple[Parents, PageHashKey]:
        newest, listed, self._checks = together(
            lambda: None if self._wanted.is_full else self._newest_backup(),
            self._newest_partials,
            lambda: read_checks(self._repository, self._layout),
        )
        base, manifest, modified = newest or (None, None, None)
        if manifest is not None:
            key = self._key_of(manifest) or key
        partials = self._partials(listed, modified, key)
        since = _since_whole_read(manifest)
        everything = since + 1 >= self._wanted.read_all_every
        manifests = [*partials, *([] if manifest is None else [manifest])]
        parents = [self._open(one, key, everything=everything) for one in manifests]
        return (
            Parents(
                parents,
                base.id if base else None,
                self._wanted.page_size,
                0 if everything or base is None else since + 1,
            ),
            key,
        )

    def damaged_packs(self, parents: Parents) -> frozenset[PackKey]:
        """The packs of the parents that verify found bad, and not good since."""
        bad = self._checks.bad
        if not bad:
            return frozenset()
        found = frozenset(
            pack
            for parent in parents.parents
            for pack, info in parent.packs.items()
            if info.key(self._layout) in bad
        )
        if found:
            self._progress.warn(
                f"{len(found)} packs were found damaged by pgkeep verify. This backup stores again "
                "what it would take from them."
            )
        return found

    def _newest_backup(self) -> tuple[Backup, Manifest, datetime] | None:
        """The newest backup that can serve, and when it was published, by the store's clock."""
        catalogue = read_catalogue(self._repository, self._layout)
        for problem in catalogue.problems:
            self._progress.warn(f"The backup {problem.backup} cannot be read: {problem.error}")
        for backup in sorted(catalogue.backups, key=lambda one: one.ended, reverse=True):
            if backup.head.page_size != self._wanted.page_size:
                continue
            manifest = load_manifest(self._repository, self._layout, backup)
            self._stack.callback(manifest.close)
            can_serve, modified = together(
                partial(self._can_serve, manifest), partial(self._modified, backup)
            )
            if can_serve:
                return backup, manifest, modified
        return None

    def _can_serve(self, manifest: Manifest) -> bool:
        keys = {info.key(self._layout) for info in manifest.packs().values()}
        if self._key_of(manifest) is None or keys & self._wanted.condemned:
            return False
        # A pack that is gone would be missing in every backup that follows.
        store = self._repository.store
        missing = missing_packs(store, self._layout, manifest.packs().values())
        if missing and not manifest.head.partial:
            self._progress.warn(
                f"The backup {manifest.head.backup} cannot be restored whole: "
                f"{len(missing)} of its packs are missing or cut off in "
                f"{store.url}, first {missing[0].key}. "
                "This backup stores again what they held."
            )
        return not missing

    def _key_of(self, manifest: Manifest) -> PageHashKey | None:
        """The key of its page hashes, if it is one that many backups share and is known here."""
        fact: Any = manifest.facts().get("hash")
        try:
            kind, shown = int(fact["kind"]), bytes.fromhex(fact["shown"])
        except (KeyError, TypeError, ValueError):
            return None
        if kind == HASH_EXPLICIT:
            return None
        return self._repository.keyring.page_hash_key_for(kind, shown)

    def _modified(self, backup: Backup) -> datetime:
        layout = self._layout
        key = layout.manifest(backup.id) if backup.copies[0] else layout.manifest_copy(backup.id)
        return self._repository.store.head(key).modified

    def _partials(
        self, listed: Iterable[ObjectInfo], after: datetime | None, key: PageHashKey
    ) -> list[Manifest]:
        """Those of ``listed`` that are younger than the backup, and can serve, newest first.

        More than one, since a run that was broken off early knows less than the one before it.
        """
        found: list[Manifest] = []
        for info in sorted(listed, key=lambda one: one.modified, reverse=True):
            is_old = self._wanted.now - info.modified >= _PARTIAL_LIFE
            if is_old or len(found) == _MOST_PARTIALS:
                break
            if after is not None and info.modified <= after:
                break
            try:
                manifest = read_manifest(self._repository.store, info.key, self._repository.keyring)
            except _UNUSABLE:
                continue
            self._stack.callback(manifest.close)
            fits = manifest.head.page_size == self._wanted.page_size
            is_alone = not self._wanted.is_full or manifest.head.kind == "full"
            if fits and is_alone and self._can_serve(manifest) and self._key_of(manifest) == key:
                found.append(manifest)
        return found

    def _newest_partials(self) -> list[ObjectInfo]:
        """The newest partial manifest of each attempt."""
        newest: dict[str, ObjectInfo] = {}
        for info in self._repository.store.list(self._layout.partials):
            newest[info.key.rpartition("/")[0]] = info
        return list(newest.values())

    def _open(self, manifest: Manifest, key: PageHashKey, *, everything: bool) -> Parent:
        by_id = manifest.packs()
        packs = {(info.attempt, info.number): info for info in by_id.values()}
        maps = ParentMaps(self._repository, self._layout, by_id)
        files = {row.path: row for row in manifest.files() if row.path not in _SELF_MADE}
        attempt = manifest.head.attempt
        identity = self._repository.keyring.repository_id.hex()
        hashes, cache = None, self._wanted.cache
        if cache is not None:
            hashes = HashReader.open(cache, attempt, repository_id=identity, key=key)
        if hashes is None:
            self._progress.phase("reading page hashes from the repository")
            folder = cache or Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            hashes = rebuild_hashes(
                self._repository,
                self._layout,
                folder=folder,
                attempt=attempt,
                key=key,
                maps=maps,
                packs=packs,
                files=files.values(),
                page_size=manifest.head.page_size,
            )
        self._stack.callback(hashes.close)
        skipping = Skipping(manifest.facts().get("boot"), everything=everything)
        return Parent(manifest, maps, packs, hashes, skipping, files)


def _since_whole_read(manifest: Manifest | None) -> int:
    """How many backups in a row have skipped files, up to this one."""
    fact = manifest.facts().get("reading") if manifest is not None else None
    count = fact.get("since_whole") if isinstance(fact, dict) else 0
    return count if isinstance(count, int) and count >= 0 else 0
