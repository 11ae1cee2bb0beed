"""The steps of a backup, in the order that is its promise (see ``run.py``)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.beginning import Beginning
from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.copy import Copier, CopyFormat
from pgkeep.backup.hash_cache import HashReader, HashWriter
from pgkeep.backup.history import ensure_history
from pgkeep.backup.mapping import MapCollector
from pgkeep.backup.packing import PackFiller, PackStream
from pgkeep.backup.parents import Parents
from pgkeep.backup.pinned_parents import pinned_parents
from pgkeep.backup.pins import Pin
from pgkeep.backup.prepare import prove_data_directory, recorded_facts
from pgkeep.backup.publish import describe, publish
from pgkeep.backup.reader import RUN_BYTES
from pgkeep.backup.source import CONTROL_FILE, Source, SourceFile, outside_file, walk_data_directory
from pgkeep.backup.throttle import RateLimit
from pgkeep.backup.unfinished import PartialManifests
from pgkeep.backup.wal import BackupWal
from pgkeep.postgres.backup_session import BackupSession, StartedBackup, StoppedBackup
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.datadir import external_config_files, read_control_bytes
from pgkeep.postgres.page import scan_pages
from pgkeep.repository.manifest import DATA_DIRECTORY, Head, Tablespace
from pgkeep.repository.map import Extent, FileMap
from pgkeep.repository.map_rows import PackKey


@dataclass(frozen=True)
class BackupReport:
    """A backup that exists. ``failed`` lists (path, page) of damaged pages: then it is not good.
    ``unread`` is how many files were provably as they had been."""

    head: Head
    failed: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]
    unread: int = 0


def make_backup(attempt: Attempt, connection: ServerConnection) -> BackupReport:
    """Everything from the pin to the second copy of the manifest. Raises as ``run_backup``."""
    pin = Pin(attempt)
    pin.renew()
    with (
        BackupSession(connection) as session,
        Beginning(attempt, session) as beginning,
        pinned_parents(attempt, pin) as parents,
        _hash_writer(attempt) as cache,
    ):
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
            steps = _Steps(attempt, connection, pin, stream, parents, cache)
            report = steps.run(session, beginning)
        except BaseException:
            stream.abort()
            raise
        cache.keep_only({attempt.id})
        if cache.problem is not None:
            attempt.progress.warn(
                "The page hashes could not be kept on this host, so the next backup reads them "
                f"from the repository: {cache.problem}"
            )
    return report


def _hash_writer(attempt: Attempt) -> HashWriter:
    """Where this backup's page hashes go."""
    return HashWriter(
        attempt.cache,
        attempt.id,
        repository_id=attempt.repository.keyring.repository_id.hex(),
        key=attempt.hash_key,
    )


class _Steps:
    def __init__(
        self,
        attempt: Attempt,
        connection: ServerConnection,
        pin: Pin,
        stream: PackStream,
        parents: Parents,
        cache: HashWriter,
    ) -> None:
        self._attempt, self._pin = attempt, pin
        self._stream, self._parents, self._cache = stream, parents, cache
        self._wal = BackupWal(attempt, connection, pin, cache)
        self._collector = MapCollector(
            stream, attempt.manifest, page_size=attempt.facts.block_size, keep_blocks=True
        )

    def run(self, session: BackupSession, beginning: Beginning) -> BackupReport:
        attempt = self._attempt
        started = self._start(session, beginning)
        source = self._copy(session, started)
        stopped = self._stop(session, started)
        self._add_packs()
        self._describe(source)
        self._wal.wait(session, started, stopped)
        head = publish(attempt, started, stopped, pin=self._pin)
        failed = tuple(sorted(self._collector.failed))
        return BackupReport(head, failed, tuple(source.left_out), len(self._collector.unread))

    def _start(self, session: BackupSession, beginning: Beginning) -> StartedBackup:
        attempt = self._attempt
        attempt.progress.phase("waiting for a checkpoint")
        started = beginning.wait()
        prove_data_directory(session, attempt.directory.path)
        attempt.manifest.add_fact("boot", attempt.boot)
        ensure_history(
            attempt.repository,
            attempt.layout,
            started.timeline,
            pgdata=attempt.directory.path,
            host=attempt.options.host,
        )
        attempt.progress.phase("checking that WAL arrives in the repository")
        self._wal.begin(session, started)
        return started

    def _copy(self, session: BackupSession, started: StartedBackup) -> Source:
        attempt = self._attempt
        source, found = self._files()
        files = self._keep_unread(found)
        copier = self._copier(started)
        attempt.progress.phase("copying")
        attempt.progress.total(sum(file.size_bytes for file in files), len(files))
        unfinished = PartialManifests(
            attempt,
            self._stream,
            self._collector,
            parents=self._parents,
            cache=self._cache,
            head=describe(attempt, started, None),
        )
        before = time.monotonic()

        def keepalive() -> float | None:
            session.keepalive()
            self._pin.renew()
            unfinished.publish_when_due()
            return self._wal.look(session)

        try:
            copier.copy(files, done=self._done, keepalive=keepalive, first=self._wal.look(session))
        finally:
            unfinished.close()
        attempt.copy_seconds = time.monotonic() - before
        return source

    def _files(self) -> tuple[Source, list[SourceFile]]:
        attempt, facts, pgdata = self._attempt, self._attempt.facts, self._attempt.directory.path
        source = walk_data_directory(
            pgdata,
            major=facts.major,
            catalog_version=attempt.directory.control.catalog_version,
            tablespaces=[space.oid for space in facts.tablespaces],
        )
        outside = [outside_file(place) for place in external_config_files(facts, pgdata)]
        return source, [*source.files, *(file for file in outside if file)]

    def _keep_unread(self, files: list[SourceFile]) -> list[SourceFile]:
        """Settle those files that need not be looked at; returns the others."""
        unread, others = self._parents.divide(files)
        self._collector.keep(unread)
        by_reader: dict[HashReader, list[str]] = {}
        for one in unread:
            by_reader.setdefault(one.hashes, []).append(one.file.path)
        for reader, paths in by_reader.items():
            self._cache.adopt(reader, paths)
        return others

    def _copier(self, started: StartedBackup) -> Copier:
        attempt, facts = self._attempt, self._attempt.facts
        return Copier(
            self._stream,
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
            parents=self._parents if self._parents.parents else None,
        )

    def _done(self, copied: CopiedFile) -> None:
        self._cache.add(copied.file.path, copied.hashes)
        self._collector.add(copied)

    def _stop(self, session: BackupSession, started: StartedBackup) -> StoppedBackup:
        attempt, collector = self._attempt, self._collector
        attempt.progress.phase("ending the backup")
        # After the last page and before the stop: on a standby it tells how far replay has to go,
        # which must not be less than any page shows, nor more than the stop.
        control = read_control_bytes(attempt.directory.path)[0]
        stopped = session.stop()
        filler = self._stream.open(pooled=False)
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

    def _add_packs(self) -> None:
        """A row of the manifest for each pack that it needs."""
        stored = self._stream.close()
        own = {(pack.attempt, pack.number) for pack in stored}
        for info in (*stored, *self._parents.pack_infos(sorted(self._named() - own))):
            self._attempt.manifest.add_pack(info)

    def _named(self) -> set[PackKey]:
        """The packs that the manifest's maps name, and those in which the maps stand."""
        named = set(self._collector.named)
        for path in self._collector.kept:
            used = self._parents.usage[path]
            named.add(used.map_pack)
            named.update(used.stored)
        return named

    def _describe(self, source: Source) -> None:
        """Everything of the manifest's body but files and packs."""
        manifest, facts = self._attempt.manifest, self._attempt.facts
        for path, mode in source.directories.items():
            manifest.add_directory(path, mode)
        for path, target in source.links.items():
            manifest.add_link(path, target)
        for space in facts.tablespaces:
            manifest.add_tablespace(Tablespace(space.oid, space.name, space.location))
        manifest.add_fact("server", recorded_facts(facts))
        kind, shown = self._attempt.hash_key.kind, self._attempt.hash_key.shown
        manifest.add_fact("hash", {"kind": kind, "shown": shown.hex()})
        manifest.add_fact("reading", {"since_whole": self._parents.since_whole_read})


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
