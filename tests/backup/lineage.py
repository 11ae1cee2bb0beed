"""Backups of one server, one after the other, and restores of any of them beside it.

What the cluster held is noted when a backup is made. A restore of it is then judged by that, and by
PostgreSQL's own programs: before it is started, while it runs, and when it was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgkeep.backup.run import BackupReport
from pgkeep.postgres.datadir import read_control
from pgkeep.progress import Silent
from pgkeep.restore.plan import FetchAccess, RestoreOptions
from pgkeep.restore.run import plan_restore, run_restore
from pgkeep.restore.target import immediate
from tests.backup.format_reader import ReadBackup
from tests.backup.site import Site
from tests.digest import Digest, assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.restore.verifybackup import verify_backup
from tests.servers import PgServer, new_directory


class Lineage:
    """Backs up ``site.server`` with a hash cache, and restores. ``made`` are the backups so far."""

    def __init__(self, site: Site, factory: ServerFactory) -> None:
        self.site, self._factory = site, factory
        self.server = site.server
        self.cache = site.root / "cache"
        self.cache.mkdir()
        self.made: list[str] = []
        self.digests: dict[str, Digest] = {}

    def backup(self, server: PgServer | None = None, **options: Any) -> BackupReport:
        """A backup at a quiet moment; what the cluster holds is noted before it."""
        digest = cluster_digest(server or self.server)
        report = self.backup_of_any_state(server, **options)
        self.digests[report.head.backup] = digest
        return report

    def backup_of_any_state(self, server: PgServer | None = None, **options: Any) -> BackupReport:
        """The same without looking at the cluster, which would set hint bits."""
        report = self.site.backup(server, **{"cache": self.cache, **options})
        assert not report.failed, report.failed
        self.made.append(report.head.backup)
        return report

    def incremental(self, server: PgServer | None = None, **options: Any) -> BackupReport:
        """A backup whose parent is the one before."""
        parent = self.made[-1]
        report = self.backup(server, **options)
        assert (report.head.kind, report.head.parent) == ("incremental", parent)
        return report

    def read(self, backup: str) -> ReadBackup:
        """A backup as a stranger would read it."""
        return self.site.read(backup)

    @contextmanager
    def recovered(self, backup: str, **options: Any) -> Iterator[PgServer]:
        """This backup restored, started and at the end of its recovery.

        ``options`` are those of ``RestoreOptions``; without a target it is the backup's own end.
        """
        into = new_directory("r") / "data"
        wanted = RestoreOptions(
            into, **{"target": immediate(), "backup": backup, "wal": "copied", **options}
        )
        site, progress = self.site, Silent()
        arguments = (site.repository(), site.layout)
        plan = plan_restore(*arguments, wanted, access=self._access, progress=progress)
        run_restore(*arguments, plan, access=self._access, progress=progress)
        assert not progress.warnings, progress.warnings
        verify_backup(self.server.installation, into)
        server = self._factory.adopt(into).start()
        try:
            server.wait_recovery_end()
            yield server
        finally:
            server.close()
            shutil.rmtree(into.parent, ignore_errors=True)

    def check(self, backup: str, digest: Digest | None = None, **options: Any) -> None:
        """This backup restores to what was noted, or to ``digest``, and PostgreSQL finds no fault
        with it."""
        with self.recovered(backup, **options) as server:
            assert_same_digest(cluster_digest(server), digest or self.digests[backup])
            find_no_fault(server)

    def check_all(self) -> None:
        """Every backup restores to what was noted."""
        for backup in self.made:
            self.check(backup)

    @property
    def _access(self) -> FetchAccess:
        settings = {"repo": f"file://{self.site.repository_path}", "cluster": "main"}
        return FetchAccess((str(pgkeep_program()),), settings, self.site.root / "identity")


def find_no_fault(server: PgServer) -> None:
    """What amcheck and pg_checksums say of a running server, which is stopped for it."""
    if server.installation.has_contrib:  # the embedded one has no extensions
        server.run("pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--parent-check")
    server.stop()
    if read_control(server.pgdata).data_checksums:
        done = server.run("pg_checksums", "--check", "-D", server.pgdata)
        assert "Bad checksums:  0" in done.stdout, done.stdout


def files_that_differ(one: ReadBackup, other: ReadBackup) -> list[str]:
    """The files with other content, or which only one of two backups has, beside
    ``may_differ``. Every check of the format is applied to both."""
    paths = {path for path in (*one.files, *other.files) if not may_differ(path)}
    missing = {path for path in paths if path not in one.files or path not in other.files}
    return sorted(missing) + [
        path for path in sorted(paths - missing) if one.content(path) != other.content(path)
    ]


def may_differ(path: str) -> bool:
    """Whether a file of two backups differs although nothing happened between them.

    Each backup begins with a checkpoint, which is noted in ``pg_control``, and its label says which
    one it is, and when. What else a checkpoint writes is the same again when nothing happened.
    """
    return path in ("global/pg_control", "backup_label", "tablespace_map")


def file_of(server: PgServer, relation: str, dbname: str = "postgres") -> Path:
    """The first file of a relation."""
    return server.pgdata / server.psql(f"SELECT pg_relation_filepath('{relation}')", dbname)
