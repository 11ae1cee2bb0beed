"""Deleting packs that nobody names (format, section 11), and what runs that crashed left behind.

What a sweep finds to be named by nobody it *condemns*: it says so. An hour or more later, a later
run looks again and deletes what is still not named. Backups that began before have a pin, which
names their packs; those that begin after read what is condemned and take nothing of it.

If a backup's manifest cannot be read, nobody knows what it needs, and no pack is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound, WrongIdentity
from pgkeep.keep.deleting import delete_all
from pgkeep.keep.look import read_pins
from pgkeep.keep.packs import PackNames, StoredPacks
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import stored_manifests
from pgkeep.repository.condemned import Condemned, condemn, read_condemned, spare
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import read_manifest
from pgkeep.storage.interface import ObjectInfo

_UNREADABLE = (DamagedObject, FormatTooNew, WrongIdentity)
PARTIAL_LIFE = timedelta(days=7)
VOID_LIFE = timedelta(days=7)


@dataclass
class SweepReport:
    """Packs and their bytes: ``deleted`` now, ``condemned`` now, ``waiting`` from before.

    ``blocked_by`` is a backup that cannot be read, because of which no pack was touched;
    ``is_newer`` says that it is only of a newer format.
    """

    deleted: int = 0
    deleted_bytes: int = 0
    condemned: int = 0
    condemned_bytes: int = 0
    waiting: int = 0
    litter: int = 0
    blocked_by: str | None = None
    is_newer: bool = False


class Sweep:
    """One sweep of one system in one repository; with ``dry_run`` it only counts."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        *,
        now: datetime,
        at: str,
        by: Mapping[str, Any],
        dry_run: bool,
        progress: Progress,
    ) -> None:
        self._repository, self._layout, self._now = repository, layout, now
        self._at, self._by, self._dry_run = at, by, dry_run
        self._progress = progress
        self.report = SweepReport()

    def run(self) -> SweepReport:
        """Raises what the store raises; what was done until then stays done."""
        self._progress.phase("looking for packs that nobody needs")
        store, layout, report = self._repository.store, self._layout, self.report
        packs = StoredPacks(store, layout)  # before pins and manifests: see keep/look.py
        try:
            named, litter = self._named()
        except _Blocked as blocked:
            report.blocked_by, report.is_newer = blocked.args
            return report
        condemned = read_condemned(store, layout)
        unnamed = dict(packs.without(named))
        doomed = self._delete(condemned, unnamed, packs)
        fresh = {key: size for key, size in unnamed.items() if key not in condemned.due}
        report.condemned, report.condemned_bytes = len(fresh), sum(fresh.values())
        report.waiting = sum(
            1 for key, due in condemned.due.items() if due > self._now and key in unnamed
        )
        if not self._dry_run:
            condemn(store, layout, sorted(fresh), at=self._at, by=self._by)
            report.litter = delete_all(store, litter)
            spent = _spent(condemned, {key for key in condemned.due if key in packs} - doomed)
            report.litter += delete_all(store, spent)
        return report

    def _delete(
        self, condemned: Condemned, unnamed: Mapping[str, int], packs: StoredPacks
    ) -> set[str]:
        """What is due goes if still nobody names it, and is spared otherwise. Returns what went."""
        due = [key for key, moment in condemned.due.items() if moment <= self._now]
        doomed = [key for key in due if key in unnamed]
        self.report.deleted = len(doomed)
        self.report.deleted_bytes = sum(unnamed[key] for key in doomed)
        if self._dry_run:
            return set()
        store, layout = self._repository.store, self._layout
        if doomed:
            self._progress.phase(f"deleting {len(doomed)} packs")
            delete_all(store, doomed)
        named = [key for key in due if key not in unnamed and key in packs]
        spare(store, layout, named, at=self._at, by=self._by)
        return set(doomed)

    # -- who names what ---------------------------------------------------------------------------

    def _named(self) -> tuple[PackNames, list[str]]:
        """All packs that are named, and the keys of what is only litter."""
        names, litter = PackNames(), list[str]()
        store, layout = self._repository.store, self._layout
        listed = {info.key: info for info in store.list(layout.pins)}
        pins = read_pins(store, layout)
        partials = _by_attempt(store.list(layout.partials))
        manifests = stored_manifests(store, layout)
        voids = {info.key[len(layout.voids) :]: info for info in store.list(layout.voids)}
        finished = set()
        for backup, infos in manifests.items():
            keys = [info.key for info in infos]
            void = voids.get(backup)
            if void is not None and self._now - void.modified >= VOID_LIFE:
                litter += keys
                continue
            finished.add(self._add_manifest(backup, keys, names))
        for backup, info in voids.items():
            if backup not in manifests and self._now - info.modified >= VOID_LIFE:
                litter.append(info.key)
        living = {pin.attempt for pin in pins if pin.lives(self._now)}
        for attempt in living:
            names.add_attempt(attempt)
        ended = {pin.attempt for pin in pins} - living
        # A backup's own pin has done its work when there is a manifest of the attempt.
        ended |= {pin.attempt for pin in pins if pin.purpose == "backup"} & finished
        litter += [key for key in listed if key.split("/")[-2] in ended]
        for attempt, infos in partials.items():
            is_old = self._now - max(info.modified for info in infos) >= PARTIAL_LIFE
            if is_old or attempt in finished:
                litter += [info.key for info in infos]
            else:
                self._add_partial(attempt, infos[-1].key, names)
        return names, litter

    def _add_manifest(self, backup: str, keys: Iterable[str], names: PackNames) -> str:
        """Take in what it names; returns its attempt. Raises ``_Blocked``."""
        is_newer = False
        for key in keys:
            try:
                return self._read(key, names)
            except (*_UNREADABLE, ObjectNotFound) as error:
                is_newer = is_newer or isinstance(error, FormatTooNew)
        if any(self._repository.store.exists(key) for key in keys):
            raise _Blocked(backup, is_newer)
        return ""

    def _add_partial(self, attempt: str, key: str, names: PackNames) -> None:
        names.add_attempt(attempt)
        try:
            self._read(key, names)
        except (*_UNREADABLE, ObjectNotFound):
            return  # then it serves nobody as a parent

    def _read(self, key: str, names: PackNames) -> str:
        manifest = read_manifest(self._repository.store, key, self._repository.keyring)
        try:
            for info in manifest.packs().values():
                names.add(info.attempt, info.number)
            return manifest.head.attempt
        finally:
            manifest.close()


def _spent(condemned: Condemned, waiting: set[str]) -> list[str]:
    """The oldest records, as far as they speak of nothing that waits; the highest number stays."""
    spent = []
    for name, keys in list(condemned.records.items())[:-1]:
        if not waiting.isdisjoint(keys):
            break
        spent.append(name)
    return spent


def _by_attempt(infos: Iterator[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    found: dict[str, list[ObjectInfo]] = {}
    for info in infos:
        found.setdefault(info.key.split("/")[-2], []).append(info)
    return found


class _Blocked(Exception):
    """A backup that cannot be read, and whether it is only of a newer format."""
