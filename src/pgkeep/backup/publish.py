"""The moment at which a backup begins to exist: its manifest is created, twice.

By then every pack and every WAL segment from start to stop is stored (invariant 2). The name is
the second at which the backup began, or the next that is free.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, timedelta
from functools import partial

from pgkeep import __version__
from pgkeep.backup.attempt import Attempt
from pgkeep.backup.pins import Pin
from pgkeep.errors import BackupError, ObjectExists
from pgkeep.postgres.backup_session import StartedBackup, StoppedBackup
from pgkeep.repository.manifest import Head
from pgkeep.repository.trash import read_trash
from pgkeep.storage.together import each, together
from pgkeep.units import to_utc_text

_NAME_ATTEMPTS = 60


def publish(
    attempt: Attempt,
    started: StartedBackup,
    stopped: StoppedBackup,
    *,
    pin: Pin,
) -> Head:
    """Create both copies of the manifest, under the first free name.

    Raises ``BackupError`` when a sweep may take the packs, or no name is free, and what the store
    raises.
    """
    store, layout = attempt.repository.store, attempt.layout
    head = describe(attempt, started, stopped)
    moment = started.started_at.astimezone(UTC)
    # A clock that was put back comes to names anew; one that was given up would not count.
    given_up = read_trash(store, layout).states
    for _ in range(_NAME_ATTEMPTS):
        head = replace(head, backup=f"{moment:%Y%m%dT%H%M%SZ}")
        moment += timedelta(seconds=1)
        if head.backup in given_up:
            continue
        taken = (layout.manifest_copy(head.backup), layout.void(head.backup))
        if any(each(store.exists, taken)):
            continue
        data = attempt.manifest.build(attempt.repository.keyring, head)
        try:
            store.put(layout.manifest(head.backup), data, if_absent=True)
        except ObjectExists:
            continue
        named = {layout.pack(*pack) for pack in attempt.manifest.pack_names()}
        _, doubt = together(
            partial(store.put, layout.manifest_copy(head.backup), data, if_absent=True),
            partial(pin.doubt, head.backup, packs=named),
        )
        if doubt is not None:
            pin.take_back(head.backup, doubt)
        return head
    raise BackupError(
        f"No free name was found for the backup of {attempt.options.cluster}.",
        why=f"All {_NAME_ATTEMPTS} seconds from its start on are taken.",
        remedy="Do not start so many backups at once.",
    )


def describe(attempt: Attempt, started: StartedBackup, stopped: StoppedBackup | None) -> Head:
    """The head of the attempt's manifest as far as it is known; it has no name yet."""
    files, size, failed = attempt.manifest.totals()
    facts = attempt.facts
    return Head(
        backup="",
        attempt=attempt.id,
        cluster=attempt.options.cluster,
        system_identifier=str(facts.system_identifier),
        kind="incremental" if attempt.parent else "full",
        parent=attempt.parent,
        started=to_utc_text(started.started_at),
        ended=to_utc_text(stopped.stopped_at) if stopped else "",
        start_lsn=str(started.start_lsn),
        stop_lsn=str(stopped.stop_lsn) if stopped else "",
        timeline=int(started.timeline),
        wal_segment_size=facts.wal_segment_size,
        page_size=facts.block_size,
        checksums=facts.data_checksums,
        postgres=facts.version,
        postgres_major=facts.major,
        files=files,
        database_bytes=size,
        added_bytes=attempt.manifest.stored_by(attempt.id),
        stored_bytes=attempt.manifest.stored_bytes,
        failed_pages=failed,
        from_standby=started.from_standby,
        host=attempt.options.host,
        level=attempt.options.level,
        note=attempt.options.note,
        copy_seconds=round(attempt.copy_seconds, 3),
        total_seconds=round(time.monotonic() - attempt.began, 3),
        pgkeep=__version__,
    )
