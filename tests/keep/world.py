"""A small world for what is kept: a store with a clock of its own, WAL, backups, and their users.

Backups here have no pages. Everything that keeps them safe from a sweep is the real thing: pins,
the look at what is condemned, the void.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pgkeep.backup.pins import Pin
from pgkeep.config.keeping import KeepPolicy
from pgkeep.errors import BackupError
from pgkeep.keep.run import ExpireOptions, SystemReport, expire
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import segment_name
from pgkeep.progress import Silent
from pgkeep.repository.catalogue import Backup, load_manifest, read_catalogue
from pgkeep.repository.condemned import condemned_keys
from pgkeep.repository.identity import Repository
from pgkeep.repository.manifest import ManifestBuilder
from pgkeep.repository.pack import PackInfo
from pgkeep.repository.record import build_record
from pgkeep.repository.system import register_system
from pgkeep.storage.interface import Store
from pgkeep.storage.memory import MemoryStore
from pgkeep.units import to_utc_text
from tests.repository.kit import AT, BY, LAYOUT, SEGMENT, SYSTEM, head, make_repository
from tests.repository.kit import put_wal as put_wal_object

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PACK_BYTES = 200


@dataclass
class Made:
    """What a test knows of a backup that it made. ``honest``: its end is what the clock showed."""

    id: str
    timeline: int
    first: int
    last: int
    ended: datetime
    stored: datetime
    packs: frozenset[str]
    is_good: bool = True
    honest: bool = True


class FakeAttempt:
    """As much of an attempt as a pin needs."""

    def __init__(self, repository: Repository) -> None:
        self.repository, self.layout = repository, LAYOUT
        self.id = os.urandom(16).hex()

    def by(self) -> dict[str, Any]:
        return BY


@dataclass
class Running:
    """A backup in the making, or a restore."""

    pin: Pin
    attempt: FakeAttempt
    parent: Made | None
    reused: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()


@dataclass
class World:
    """One cluster in one repository. ``now`` is the store's clock; ``skew`` how far the host's is
    ahead of it."""

    folder: Path
    now: datetime = BEGIN
    skew: timedelta = timedelta(0)
    timeline: int = 1
    position: int = 3
    made: dict[str, Made] = field(default_factory=dict)
    forks: list[tuple[int, int]] = field(default_factory=list)
    _serial: int = 0

    def __post_init__(self) -> None:
        self.store = MemoryStore(clock=lambda: self.now)
        self.repository, _ = make_repository(self.folder, store=self.store)
        register_system(
            self.store, "main", SYSTEM, postgres_major=18, new_system=False, at=AT, by=BY
        )

    # -- time and WAL -----------------------------------------------------------------------------

    def wait(self, length: timedelta) -> None:
        self.now += length

    def archive(self, count: int = 1) -> None:
        """So many more segments."""
        for _ in range(count):
            self._put_segment(self.timeline, self.position)
            self.position += 1

    def promote(self) -> None:
        """A new timeline begins where the last one stands."""
        switch = self.position * SEGMENT + 4096
        self._put_segment(self.timeline, self.position)
        self.forks.append((self.timeline, switch))
        self.timeline += 1
        rows = "".join(f"{old}\t{Lsn(at)}\tpromoted\n" for old, at in self.forks)
        put_wal_object(
            self.repository, f"{self.timeline:08X}.history", rows.encode(), kind="history"
        )
        self.archive()

    def _put_segment(self, timeline: int, number: int) -> None:
        name = segment_name(timeline, number, SEGMENT)
        modified = to_utc_text(self.now)
        put_wal_object(self.repository, name, b"wal", kind="segment", modified=modified)

    # -- backups ----------------------------------------------------------------------------------

    def begin(self, *, reuse: float = 0.5) -> Running:
        """A backup begins: pin, parent, condemned packs, as in ``backup/steps.py``."""
        attempt = FakeAttempt(self.repository)
        pin = Pin(attempt)  # type: ignore[arg-type]
        pin.renew()
        known = [one.id for one in self.listed()]
        for name in sorted(known, key=lambda name: self.made[name].stored, reverse=True):
            parent = self.made[name]
            pin.work_from(parent.id)
            there = {info.key for info in self.store.list(LAYOUT.packs)}
            if parent.packs <= there and not parent.packs & condemned_keys(self.store, LAYOUT):
                keep = sorted(parent.packs)[: int(len(parent.packs) * reuse)]
                return Running(pin, attempt, parent, frozenset(keep))
        pin.work_from(None)
        return Running(pin, attempt, None)

    def put_packs(self, running: Running, count: int = 2) -> None:
        keys = [LAYOUT.pack(running.attempt.id, number + 1) for number in range(count)]
        for key in keys:
            self.store.put(key, bytes(PACK_BYTES))
        running.own = frozenset(keys)

    def finish(
        self,
        running: Running,
        *,
        ended: datetime | None = None,
        failed_pages: int = 0,
        wal: bool = True,
    ) -> Made | None:
        """The backup's WAL and manifests; None if it was taken back."""
        first = self.position
        if wal:
            self.archive(2)
        honest = ended is None
        ended = ended or self.now + self.skew
        self._serial += 1
        name = f"{ended - timedelta(seconds=self._serial):%Y%m%dT%H%M%SZ}"
        while name in self.made:
            self._serial += 1
            name = f"{ended - timedelta(seconds=self._serial):%Y%m%dT%H%M%SZ}"
        packs = running.reused | running.own
        one = head(
            name,
            str(Lsn(first * SEGMENT + 40)),
            str(Lsn((first + 1) * SEGMENT + 100)),
            attempt=running.attempt.id,
            ended=to_utc_text(ended),
            timeline=self.timeline,
            failed_pages=failed_pages,
        )
        builder = ManifestBuilder()
        for key in packs:
            attempt, number = key.split("/")[-2:]
            builder.add_pack(
                PackInfo(attempt, int(number), PACK_BYTES, bytes(32), bytes(16), b"", b"")
            )
        data = builder.build(self.repository.keyring, one)
        builder.close()
        self.store.put(LAYOUT.manifest(name), data, if_absent=True)
        self.store.put(LAYOUT.manifest_copy(name), data, if_absent=True)
        try:
            doubt = running.pin.doubt(name, packs=packs)
            if doubt is not None:
                running.pin.take_back(name, doubt)
        except BackupError:
            return None
        good = wal and not failed_pages
        found = Made(name, self.timeline, first, first + 1, ended, self.now, packs, good, honest)
        self.made[name] = found
        return found

    def backup(self, **options: Any) -> Made:
        """A whole one, which is not disturbed."""
        running = self.begin()
        self.put_packs(running)
        made = self.finish(running, **options)
        assert made is not None
        return made

    def interrupted(self) -> None:
        """A backup that got as far as some packs and a partial manifest."""
        running = self.begin()
        self.put_packs(running)
        builder = ManifestBuilder()
        for key in running.own | running.reused:
            attempt, number = key.split("/")[-2:]
            builder.add_pack(
                PackInfo(attempt, int(number), PACK_BYTES, bytes(32), bytes(16), b"", b"")
            )
        part = head("", "0/0", "0/0", attempt=running.attempt.id, partial=True)
        key = f"{LAYOUT.partials}{running.attempt.id}/00000001"
        self.store.put(key, builder.build(self.repository.keyring, part))
        builder.close()

    def restore_begins(self, made: Made) -> str:
        """Somebody reads a backup; returns the key of his pin."""
        attempt = os.urandom(16).hex()
        members = {"attempt": attempt, "purpose": "restore", "backup": made.id}
        key = LAYOUT.pin(attempt, 1)
        self.store.put(key, build_record("pin", members, at=AT, by=BY), if_absent=True)
        return key

    # -- expiry -----------------------------------------------------------------------------------

    def expire(
        self,
        policy: KeepPolicy,
        *,
        grace_seconds: int = 86400,
        store: Store | None = None,
        **options: Any,
    ) -> SystemReport:
        repository = self.repository._replace(store=store or self.store)
        wanted = ExpireOptions(policy, grace_seconds, BY, **options)
        return expire(repository, "main", wanted, progress=Silent())[0]

    # -- looking ----------------------------------------------------------------------------------

    def listed(self) -> list[Backup]:
        """The backups that count."""
        return list(read_catalogue(self.repository, LAYOUT).backups)

    def listed_names(self) -> set[str]:
        return {backup.id for backup in self.listed()}

    def assert_restorable(self, backup: Backup) -> None:
        """All its packs and its own WAL are there."""
        manifest = load_manifest(self.repository, LAYOUT, backup)
        packs = [info.key(LAYOUT) for info in manifest.packs().values()]
        manifest.close()
        missing = [key for key in packs if not self.store.exists(key)]
        assert not missing, f"{backup.id} lacks {missing}"
        made = self.made.get(backup.id)
        if made is not None and made.is_good:
            for number in range(made.first, made.last + 1):
                self.assert_wal(made.timeline, number)

    def assert_wal(self, timeline: int, number: int) -> None:
        key = LAYOUT.wal_file(segment_name(timeline, number, SEGMENT))
        assert self.store.exists(key), f"{key} is gone"

    def assert_reaches_the_end(self, made: Made) -> None:
        """All WAL from its start to now, along the timelines."""
        number = made.first
        for timeline, switch in self.forks:
            if timeline < made.timeline:
                continue
            while number < switch // SEGMENT:
                self.assert_wal(timeline, number)
                number += 1
        while number < self.position:
            self.assert_wal(self.timeline, number)
            number += 1


def _pack(key: str) -> PackInfo:
    attempt, number = key.split("/")[-2:]
    return PackInfo(attempt, int(number), PACK_BYTES, bytes(32), bytes(16), b"", b"")
