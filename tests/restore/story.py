"""A history of a busy server, with a few moments at which its content is known."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from pgkeep.backup.run import BackupReport
from pgkeep.restore.run import RestoreReport
from tests.digest import Digest, assert_same_digest, cluster_digest
from tests.load import Load, prepare_pgbench
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import run_as_server_user
from tests.servers import PgServer


class Story:
    """Load and DDL, a backup meanwhile, a marked transaction, more of both, the end.

    ``before`` is the content just before the marked transaction (``xid``, committed at exactly
    ``time`` and ending before ``lsn``), ``after`` just after it, ``end`` at last. The restore point
    ``"the moment"`` stands right behind the transaction.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self._number = 0
        self._restored: list[tuple[PgServer, Path]] = []
        server = site.server
        server.stop()
        server.configure({"track_commit_timestamp": "on"})
        server.start()
        prepare_pgbench(server)
        server.psql("CREATE TABLE marks (what text); CREATE UNLOGGED TABLE gone AS SELECT 1 AS a")
        self.first_backup: BackupReport = site.backup()
        with Load(server, ddl=True, rate=200) as load:
            load.wait_churn_rounds(2)
            self.backup = site.backup()
            load.wait_churn_rounds(4)
        self.before = cluster_digest(server)
        self.xid = int(self._one("INSERT INTO marks VALUES ('x') RETURNING xmin::text").strip())
        stamp = f"SELECT to_char(pg_xact_commit_timestamp('{self.xid}') AT TIME ZONE 'UTC', "
        self.time = datetime.fromisoformat(
            self._one(stamp + "'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'")
        )
        self.lsn = self._one("SELECT pg_current_wal_insert_lsn()")
        server.psql("SELECT pg_create_restore_point('the moment')")
        self.after = cluster_digest(server)
        with Load(server, ddl=True, rate=200) as load:
            load.wait_churn_rounds(1)
        self.end = cluster_digest(server)
        server.wait_archived()
        server.stop()

    def restore(self, **options: object) -> RestoreReport:
        """Restore into a new directory, checked by ``pg_verifybackup`` before it is started."""
        self._number += 1
        report = self.site.restore(f"back {self._number}", **options)
        verify_backup(self.site.server.installation, report.plan.options.into)
        return report

    def recovered(self, report: RestoreReport) -> PgServer:
        server = self.site.recovered(report)
        self._restored.append((server, report.plan.options.into))
        return server

    def assert_restores_to(self, digest: Digest, **options: object) -> RestoreReport:
        """A restore with these options recovers to this content; its page checksums are right."""
        report = self.restore(**options)
        server = self.recovered(report)
        assert_same_digest(digest, cluster_digest(server))
        assert server.psql("SELECT count(*) FROM gone") == "0"
        server.stop()
        into = report.plan.options.into
        run_as_server_user([server.program("pg_checksums"), "--check", into])
        return report

    def forget_restored(self) -> None:
        for server, path in self._restored:
            server.close()
            shutil.rmtree(server.root, ignore_errors=True)
            shutil.rmtree(path, ignore_errors=True)
        self._restored.clear()

    def _one(self, sql: str) -> str:
        return self.site.server.psql(sql)
