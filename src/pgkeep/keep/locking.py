"""Locking what the newest backup needs, where the bucket has Object Lock.

The bucket's default locks each object from its creation on. But a pack may be years old and still
be needed by the backup of today. So after each backup everything that it needs is locked for at
least so many days more. To do that for every pack every day would be a request for each; so locks
are made half as long again, and what is known to be locked for long enough is not asked for: this
host remembers it by the attempts that stored the packs. Losing that costs asking again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import segments_between
from pgkeep.repository.catalogue import Backup, load_manifest
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import OWN, PROBES, Layout, systems
from pgkeep.repository.manifest import read_head
from pgkeep.storage.object_lock import ObjectLock
from pgkeep.units import from_utc_text, to_utc_text


@dataclass(frozen=True)
class LockReport:
    """``extended`` objects were locked for longer; all are locked at least until ``until``."""

    extended: int
    until: datetime


def lock_backup(
    repository: Repository,
    layout: Layout,
    backup: str,
    lock: ObjectLock,
    *,
    days: int,
    memory: Path,
) -> LockReport:
    """Lock the backup's packs and manifests, the WAL from its start to its stop, histories, and
    what opens the repository, for ``days`` from its end on, by the store's clock.

    ``memory`` is a file of this host.

    Raises what the store raises: then not all of it may be locked, and the next run goes on.
    """
    key = layout.manifest(backup)
    now = repository.store.head(key).modified
    least, to = now + timedelta(days=days), now + timedelta(days=days * 1.5)
    manifest = load_manifest(
        repository,
        layout,
        Backup(read_head(repository.store, key, repository.keyring), (True, True)),
    )
    packs: dict[str, set[str]] = defaultdict(set)
    try:
        head = manifest.head
        for info in manifest.packs().values():
            packs[info.attempt].add(info.key(layout))
    finally:
        manifest.close()
    known = _read(memory)
    extended = 0
    for attempt, keys in sorted(packs.items()):
        if known.get(attempt, now) < least:
            extended += lock.extend(f"{layout.packs}{attempt}/", keys, least=least, to=to)
            known[attempt] = least
    start, stop = Lsn.parse(head.start_lsn), Lsn.parse(head.stop_lsn)
    groups: dict[str, set[str]] = defaultdict(set)
    for name in segments_between(start, stop, head.timeline, head.wal_segment_size):
        groups[layout.wal_group(name)].add(layout.wal_file(name))
    for prefix, keys in groups.items():
        extended += lock.extend(prefix, keys, least=least, to=to)
    for one in (key, layout.manifest_copy(backup)):
        extended += lock.extend(one, {one}, least=least, to=to)
    for prefix in (OWN, systems(layout.cluster), layout.history):
        there = {info.key for info in repository.store.list(prefix)}
        there = {name for name in there if not name.startswith(PROBES)}
        extended += lock.extend(prefix, there, least=least, to=to)
    _write(memory, {attempt: known[attempt] for attempt in packs})
    return LockReport(extended, least)


def _read(path: Path) -> dict[str, datetime]:
    try:
        found = json.loads(path.read_bytes())
        return {str(attempt): from_utc_text(until) for attempt, until in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, known: dict[str, datetime]) -> None:
    """It only saves requests, so that it cannot be written is no failure."""
    new = path.with_suffix(".new")
    try:
        text = json.dumps({attempt: to_utc_text(until) for attempt, until in known.items()})
        new.write_text(text)
        new.replace(path)
    except OSError:
        return
