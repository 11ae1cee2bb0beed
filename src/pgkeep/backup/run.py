"""One full backup, from the first question to the second copy of the manifest.

The order is the promise: prove that the directory is the server's and that WAL arrives; copy;
stop; see every segment from start to stop in the repository; have every pack stored; only then
create the manifest, twice. Whatever happens before that leaves packs that nobody names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.attempt import BackupOptions as BackupOptions
from pgkeep.backup.copy import CopiedFile, Copier, CopyFormat
from pgkeep.backup.history import ensure_history
from pgkeep.backup.mapping import MapCollector
from pgkeep.backup.packing import PackFiller, PackStream
from pgkeep.backup.pins import Pin
from pgkeep.backup.prepare import (
    boot_facts,
    find_data_directory,
    prove_data_directory,
    recorded_facts,
)
from pgkeep.backup.proof import check_archiving, wait_for_segments
from pgkeep.backup.publish import publish
from pgkeep.backup.reader import RUN_BYTES
from pgkeep.backup.source import CONTROL_FILE, Source, SourceFile, outside_file, walk_data_directory
from pgkeep.backup.throttle import RateLimit, lower_priority
from pgkeep.postgres.backup_session import BackupSession, StartedBackup, StoppedBackup
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.datadir import external_config_files, read_control_bytes
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.page import scan_pages
from pgkeep.postgres.wal_name import segments_between
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.lease import Lease, holding
from pgkeep.repository.manifest import DATA_DIRECTORY, Head, Tablespace
from pgkeep.repository.map import Extent, FileMap
from pgkeep.repository.system import check_system


@dataclass(frozen=True)
class BackupReport:
    """A backup that exists. ``failed`` lists (path, page) of damaged pages: then it is not good."""

    head: Head
    failed: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]


def run_backup(
    repository: Repository,
    connection: ServerConnection,
    options: BackupOptions,
    *,
    progress: Progress,
) -> BackupReport:
    """Make a full backup; returns when both copies of its manifest are durable.

    Raises ``WrongDataDirectory``, ``ArchivingNotWorking``, ``UnknownSystem``, ``CopyRefused``,
    ``StoreError``, ``ServerError``, ``LocalIOError``, ``BackupError``
    (``BackupRunning`` while another one of the cluster is being made). After any of them there is
    no new backup, unless it was the manifest's second copy that could not be stored.
    """
    facts = connection.server_facts()
    directory = find_data_directory(facts, options.pgdata, force_version=options.force_version)
    check_system(repository.store, options.cluster, facts.system_identifier)
    check_archiving(facts)
    if options.low_priority:
        lower_priority()
    attempt = Attempt(
        repository,
        Layout(options.cluster, facts.system_identifier),
        options,
        progress,
        facts,
        directory,
        repository.keyring.page_hash_key(),
    )
    if not repository.keyring.can_read_metadata:
        progress.warn(
            "This host has no key for the repository's metadata: it makes full backups only, and "
            "cannot list them. Run pgkeep init here once with PGKEEP_IDENTITY to change that."
        )
    try:
        # Before the pin, so that a run that is refused leaves none behind, which would live for
        # days. Nothing that the pin protects is looked at before it is there.
        with holding(_lease(attempt)):
            return _run(attempt, connection)
    finally:
        attempt.manifest.close()


def _lease(attempt: Attempt) -> Lease:
    return Lease(
        attempt.repository.store,
        attempt.layout,
        attempt=attempt.id,
        by=attempt.by(),
        progress=attempt.progress,
        seconds=attempt.options.lease_seconds,
    )


def _run(attempt: Attempt, connection: ServerConnection) -> BackupReport:
    pin = Pin(attempt)
    pin.renew()
    stream = PackStream(
        attempt.repository,
        attempt.layout,
        attempt.id,
        writers=attempt.options.jobs,
        page_size=attempt.facts.block_size,
        hash_key=attempt.hash_key,
        level=attempt.options.level,
    )
    try:
        with BackupSession(connection) as session:
            started = _start(attempt, session, connection)
            collector = MapCollector(stream, attempt.manifest, page_size=attempt.facts.block_size)
            source = _copy(attempt, session, stream, collector, started, pin)
            stopped = _stop(attempt, session, stream, collector, started)
        for pack in stream.close():
            attempt.manifest.add_pack(pack)
        _describe(attempt, source)
        _see_wal(attempt, connection, started, stopped, pin)
        head = publish(attempt, started, stopped, pin=pin)
    except BaseException:
        stream.abort()
        raise
    return BackupReport(head, tuple(sorted(collector.failed)), tuple(source.left_out))


def _start(attempt: Attempt, session: BackupSession, connection: ServerConnection) -> StartedBackup:
    attempt.progress.phase("waiting for a checkpoint")
    before = time.monotonic()
    started = session.start(f"pgkeep {attempt.id}", not attempt.options.spread_checkpoint)
    boot = boot_facts(attempt.directory.path, time.monotonic() - before)
    prove_data_directory(session, attempt.directory.path)
    attempt.manifest.add_fact("boot", boot)
    ensure_history(
        attempt.repository,
        attempt.layout,
        started.timeline,
        pgdata=attempt.directory.path,
        host=attempt.options.host,
    )
    if not started.from_standby:
        attempt.progress.phase("checking that WAL arrives in the repository")
        session.switch_wal()
        first = _segments(attempt, started, started.start_lsn)
        _wait(attempt, connection, first, session.keepalive)
    return started


def _copy(
    attempt: Attempt,
    session: BackupSession,
    stream: PackStream,
    collector: MapCollector,
    started: StartedBackup,
    pin: Pin,
) -> Source:
    facts, pgdata = attempt.facts, attempt.directory.path
    source = walk_data_directory(
        pgdata,
        major=facts.major,
        catalog_version=attempt.directory.control.catalog_version,
        tablespaces=[space.oid for space in facts.tablespaces],
    )
    outside = [outside_file(place) for place in external_config_files(facts, pgdata)]
    files = [*source.files, *(file for file in outside if file)]
    copier = Copier(
        stream,
        CopyFormat(
            facts.block_size,
            attempt.hash_key.key,
            facts.data_checksums,
            facts.relation_segment_blocks,
            started.start_lsn,
        ),
        jobs=attempt.options.jobs,
        rate=RateLimit(attempt.options.rate_limit),
        listener=attempt.progress,
    )
    attempt.progress.phase("copying")
    attempt.progress.total(sum(file.size_bytes for file in files), len(files))
    before = time.monotonic()

    def keepalive() -> None:
        session.keepalive()
        pin.renew()

    copier.copy(files, done=collector.add, keepalive=keepalive)
    attempt.copy_seconds = time.monotonic() - before
    return source


def _stop(
    attempt: Attempt,
    session: BackupSession,
    stream: PackStream,
    collector: MapCollector,
    started: StartedBackup,
) -> StoppedBackup:
    attempt.progress.phase("ending the backup")
    # After the last page and before the stop: on a standby it tells how far replay has to go,
    # which must not be less than any page shows, nor more than the stop.
    control = read_control_bytes(attempt.directory.path)[0]
    stopped = session.stop()
    filler = stream.open(pooled=False)
    made = {
        CONTROL_FILE: control,
        "backup_label": stopped.label_file,
        "tablespace_map": stopped.tablespace_map,
    }
    for path, content in made.items():
        if content:
            collector.add(_made_file(attempt, filler, path, content))
    filler.flush()
    collector.finish(start_lsn=started.start_lsn, stop_lsn=stopped.stop_lsn)
    return stopped


def _made_file(attempt: Attempt, filler: PackFiller, path: str, content: bytes) -> CopiedFile:
    """A file whose content does not come from the copy."""
    size = attempt.facts.block_size
    scan = scan_pages(content, key=attempt.hash_key.key, page_size=size, verify=False)
    now = time.time_ns() // 1000
    file = SourceFile(path, path, DATA_DIRECTORY, len(content), attempt.file_mode, now, now, 0)
    assert len(content) <= RUN_BYTES, path
    frame = filler.add_data(content, scan.hashes)
    pages = -(-len(content) // size)
    return CopiedFile(file, FileMap(path, len(content), [frame], [Extent(0, pages, 0, 0)]), ())


def _describe(attempt: Attempt, source: Source) -> None:
    """Everything of the manifest's body but files and packs."""
    manifest = attempt.manifest
    for path, mode in source.directories.items():
        manifest.add_directory(path, mode)
    for path, target in source.links.items():
        manifest.add_link(path, target)
    for space in attempt.facts.tablespaces:
        manifest.add_tablespace(Tablespace(space.oid, space.name, space.location))
    manifest.add_fact("server", recorded_facts(attempt.facts))
    kind, shown = attempt.hash_key.kind, attempt.hash_key.shown
    manifest.add_fact("hash", {"kind": kind, "shown": shown.hex()})


def _see_wal(
    attempt: Attempt,
    connection: ServerConnection,
    started: StartedBackup,
    stopped: StoppedBackup,
    pin: Pin,
) -> None:
    attempt.progress.phase("waiting for the backup's last WAL to arrive")
    _wait(attempt, connection, _segments(attempt, started, stopped.stop_lsn), pin.renew)


def _segments(attempt: Attempt, started: StartedBackup, stop: Lsn) -> list[str]:
    size = attempt.facts.wal_segment_size
    return list(segments_between(started.start_lsn, stop, started.timeline, size))


def _wait(
    attempt: Attempt,
    connection: ServerConnection,
    names: list[str],
    keepalive: Callable[[], None],
) -> None:
    wait_for_segments(
        attempt.repository,
        attempt.layout,
        names,
        timeout_seconds=attempt.options.archive_timeout,
        connection=connection,
        keepalive=keepalive,
    )
