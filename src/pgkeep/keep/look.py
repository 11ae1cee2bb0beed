"""Everything about one system in one repository that decides over what goes, read once.

The order of the listings matters where a backup may be running: packs are listed before pins, pins
before manifests. So whoever made a listed pack is seen as long as his pin lives, and afterwards his
manifest is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound, StoreError
from pgkeep.keep.deciding import Candidate
from pgkeep.repository.catalogue import (
    Backup,
    Problem,
    is_good,
    read_catalogue,
    read_inventory,
    stored_manifests,
)
from pgkeep.repository.check_records import read_checks
from pgkeep.repository.checks import CheckHistory
from pgkeep.repository.holds import Holds, read_holds
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.pin_life import PIN_LIFE
from pgkeep.repository.record import build_record, parse_record
from pgkeep.repository.trash import Trash, read_trash
from pgkeep.repository.wal_inventory import WalInventory
from pgkeep.storage.interface import ObjectInfo, Store

_REQUESTS = 16
_USUAL_SEGMENT = 16 << 20


class Pin(NamedTuple):
    """The newest number of an attempt's pin. ``backup`` is what it works from; None for nothing."""

    attempt: str
    purpose: str
    backup: str | None
    modified: datetime

    def lives(self, now: datetime) -> bool:
        return now - self.modified < PIN_LIFE


@dataclass
class Look:
    """``manifests`` are the moments at which a backup's last manifest was stored, by backup.

    ``backups`` are all that can be read, those in the trash too; ``problems`` those that cannot.
    """

    now: datetime
    backups: tuple[Backup, ...]
    problems: tuple[Problem, ...]
    manifests: Mapping[str, datetime]
    trash: Trash
    holds: Holds
    pins: tuple[Pin, ...]
    inventory: WalInventory
    wal_written: Mapping[int, datetime]
    checks: CheckHistory

    def candidates(self, *, with_trash: bool = False) -> list[Candidate]:
        """Those that are decided on; with the trash, as if nothing had been thrown away."""
        return [
            self._candidate(backup)
            for backup in self.backups
            if not self.trash.is_out(backup.id)
            or (with_trash and self.trash.is_in_trash(backup.id))
        ]

    def done_pins(self) -> list[Pin]:
        """Those of backups that are whole: what these need, their manifests name."""
        finished = {backup.head.attempt for backup in self.backups}
        return [pin for pin in self.pins if pin.purpose == "backup" and pin.attempt in finished]

    def pinned_backups(self) -> set[str]:
        """Those that somebody works from."""
        living = {pin for pin in self.pins if pin.lives(self.now)}.difference(self.done_pins())
        return {pin.backup for pin in living if pin.backup is not None}

    def is_good(self, backup: Backup) -> bool:
        """WAL complete, no damaged pages, and not found broken by verify."""
        found = self.checks.of_backup(backup.id)
        is_broken = found is not None and not found.is_good
        return not is_broken and is_good(backup, self.inventory)

    def _candidate(self, backup: Backup) -> Candidate:
        hold = self.holds.held.get(backup.id)
        return Candidate(
            backup.id,
            backup.head.timeline,
            backup.start_lsn,
            backup.stop_lsn,
            backup.ended,
            self.manifests[backup.id],
            self.is_good(backup),
            None if hold is None else hold.reason,
        )


def look(repository: Repository, layout: Layout, *, now: datetime) -> Look:
    """Read it all. ``now`` is the store's clock. Raises ``DamagedObject`` where a record of what is
    held or thrown away is, ``IdentityNeeded``, and what the store raises."""
    store = repository.store
    pins = read_pins(store, layout)
    catalogue = read_catalogue(repository, layout, with_trash=True)
    manifests = {
        backup: max(info.modified for info in infos)
        for backup, infos in stored_manifests(store, layout).items()
    }
    backups = tuple(one for one in catalogue.backups if one.id in manifests)
    segment = backups[-1].head.wal_segment_size if backups else _USUAL_SEGMENT
    written: dict[int, datetime] = {}

    def see(info: ObjectInfo) -> None:
        timeline = timeline_of(info.key)
        if timeline is not None:
            written[timeline] = max(info.modified, written.get(timeline, info.modified))

    return Look(
        now,
        backups,
        catalogue.problems,
        manifests,
        read_trash(store, layout, strict=True),
        read_holds(store, layout),
        pins,
        read_inventory(repository, layout, segment, seen=see),
        written,
        read_checks(repository, layout),
    )


def timeline_of(key: str) -> int | None:
    """The timeline of a stored WAL file, by its name."""
    try:
        return int(key.rpartition("/")[2][:8], 16)
    except ValueError:
        return None


def read_pins(store: Store, layout: Layout) -> tuple[Pin, ...]:
    """The newest number of each attempt. One that cannot be read counts for its own packs only."""
    newest: dict[str, ObjectInfo] = {}
    for info in store.list(layout.pins):
        newest[info.key.rpartition("/")[0]] = info  # a listing ascends

    def read(info: ObjectInfo) -> Pin:
        attempt = info.key.split("/")[-2]
        try:
            members = parse_record(store.get(info.key), info.key, kind="pin")
        except (DamagedObject, FormatTooNew, ObjectNotFound):
            return Pin(attempt, "", None, info.modified)
        backup = members.get("backup")
        known = backup if isinstance(backup, str) else None
        return Pin(attempt, str(members.get("purpose", "")), known, info.modified)

    with ThreadPoolExecutor(_REQUESTS) as pool:
        return tuple(pool.map(read, newest.values()))


def store_clock(store: Store, layout: Layout, *, at: str, by: Mapping[str, Any]) -> datetime:
    """What the store's clock shows, by the time that it gives a pin which covers nothing.

    Raises ``StoreError`` for a store that does not list what was just written, for what rests on
    its listings would then delete what is needed; and what the store raises.
    """
    attempt = os.urandom(16).hex()
    key = layout.pin(attempt, 1)
    members = {"attempt": attempt, "purpose": "expire", "backup": None}
    store.put(key, build_record("pin", members, at=at, by=dict(by)), if_absent=True)
    try:
        if not any(info.key == key for info in store.list(key)):
            raise StoreError(
                f"{store.url} does not list what was just written, and nothing was deleted.",
                why="Whoever deletes relies on seeing who needs what.",
                remedy="Use a store that lists what it has; backups and restores work with this "
                "one, and it grows.",
            )
        return store.head(key).modified
    finally:
        store.delete([key])
