"""A server that archives into a repository of its own, backups of it, and restores beside it.

Everything goes through what a user has: ``wal-push`` as ``archive_command``, the operations for
the rest. Restored directories belong to the server's user, as after a restore by root.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgkeep.backup.run import BackupOptions, BackupReport, run_backup
from pgkeep.postgres.connection import connect
from pgkeep.postgres.datadir import read_control
from pgkeep.progress import Progress, Silent
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import (
    Repository,
    Unlock,
    create_repository,
    make_key_set,
    open_repository,
)
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import register_system
from pgkeep.restore.plan import FetchAccess, RestoreOptions, RestorePlan
from pgkeep.restore.run import RestoreReport, plan_restore, run_restore
from pgkeep.seal import age
from pgkeep.storage import open_store
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.server_user import server_user
from tests.servers import PgServer, new_directory

BY = {"host": "test", "pid": 1, "version": "0"}


class Site:
    """One cluster, its repository, and what is restored from it."""

    def __init__(self, factory: ServerFactory, *, sealed: bool = True, **server: Any) -> None:
        self.factory = factory
        self.root = new_directory()
        self.given_access: FetchAccess | None = None
        self.repository_path = self.root / "repo"
        self.url = f"file://{self.repository_path}"
        self.identity, public = age.generate_identity()
        self.sealed = sealed
        keys = make_key_set([public], None) if sealed else None
        create_repository(open_store(self.url, create=True), keys, at=_now(), by=BY)
        self.identity_file = self._write("identity", self.identity + "\n")
        (self.root / "state").mkdir(0o700)
        server_user().own(self.root / "state")
        lines = [
            f'repo = "{self.url}"',
            f'state = "{self.root}/state"',
            f'identity = "{self.identity_file}"' if sealed else "",
        ]
        self.config = self._write("pgkeep.toml", "\n".join(lines) + "\n")
        self.server = factory.create(**{**server, "conf": self._conf(server.get("conf", {}))})
        self._register()
        self.server.start()

    @property
    def repository(self) -> Repository:
        """Opened anew, with the identity."""
        unlock = Unlock([self.identity]) if self.sealed else Unlock()
        return open_repository(open_store(self.url), HostState(self.root / "state"), unlock=unlock)

    @property
    def layout(self) -> Layout:
        return Layout("main", read_control(self.server.pgdata).system_identifier)

    def archive_command(self) -> str:
        return f"{pgkeep_program()} --config {self.config} wal-push %p"

    def backup(
        self,
        server: PgServer | None = None,
        *,
        progress: Progress | None = None,
        **options: Any,
    ) -> BackupReport:
        """A backup of the server, all of whose WAL is stored."""
        server = server or self.server
        defaults = BackupOptions("main", 2, 1, "test", pgdata=str(server.pgdata))
        parameters = {
            "host": str(server.socket_dir),
            "port": "5432",
            "user": "postgres",
            "dbname": "postgres",
        }
        with as_server_user(), connect(parameters) as connection:
            return run_backup(
                self.repository,
                connection,
                replace(defaults, **options),
                progress=progress or Silent(),
            )

    @property
    def access(self) -> FetchAccess:
        """How a restored server can call pgkeep here, unless a test has set it."""
        return self.given_access or FetchAccess(
            (str(pgkeep_program()),),
            {"repo": self.url, "cluster": "main"},
            self.identity_file if self.sealed else None,
        )

    def plan(self, into: str = "back", **options: Any) -> RestorePlan:
        """What a restore would do; ``options`` are those of ``RestoreOptions``."""
        wanted = RestoreOptions(self.root / into, **options)
        return plan_restore(
            self.repository, self.layout, wanted, access=self.access, progress=Silent()
        )

    def restore(self, into: str = "back", **options: Any) -> RestoreReport:
        """Plan and restore; the report says where."""
        plan = self.plan(into, **options)
        progress = Silent()
        report = run_restore(
            self.repository, self.layout, plan, access=self.access, progress=progress
        )
        assert not progress.warnings, progress.warnings
        return report

    def recovered(self, report: RestoreReport) -> PgServer:
        """The restored server, started, its recovery at an end."""
        server = self.factory.adopt(report.plan.options.into).start()
        server.wait_recovery_end()
        return server

    def give_away(self) -> None:
        """The repository belongs to the server's user, as if that had written all of it."""
        user = server_user()
        if user.is_other:
            for path in (self.repository_path, *self.repository_path.rglob("*")):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)

    def stored_wal(self) -> list[str]:
        """The names of all stored WAL and history files."""
        keys = [info.key for info in self.repository.store.list(self.layout.root)]
        return sorted(k.rpartition("/")[2] for k in keys if "/wal/" in k or "/history/" in k)

    def forget(self, name: str) -> None:
        """Take a WAL or history file out of the repository."""
        (self.repository_path / self.layout.wal_file(name)).unlink()

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _conf(self, more: dict[str, str | int]) -> dict[str, str | int]:
        return {
            "archive_mode": "on",
            "archive_command": self.archive_command(),
            "max_wal_size": "1GB",
            "max_prepared_transactions": 4,
            **more,
        }

    def _register(self) -> None:
        control = read_control(self.server.pgdata)
        register_system(
            open_store(self.url),
            "main",
            control.system_identifier,
            postgres_major=control.major or 0,
            new_system=False,
            at=_now(),
            by=BY,
        )
        self.give_away()
        server_user().own(self.root / "state")

    def _write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text)
        path.chmod(0o600)
        return server_user().own(path)


@contextmanager
def as_server_user() -> Iterator[None]:
    """What root writes for a server must be the server's: for a while, act as its user."""
    user = server_user()
    if not user.is_other:
        yield
        return
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
