"""A server that archives with ``pgkeep wal-push`` into a repository, and backups of it.

Backups are made in this process, or by the program as the server's user where a process is to
be killed. As root both write into one repository: hence its open modes.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgkeep.backup.run import BackupOptions, BackupReport, run_backup
from pgkeep.postgres.connection import connect
from pgkeep.postgres.datadir import read_control
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import segments_between
from pgkeep.progress import Progress, Silent
from pgkeep.repository.catalogue import Backup, list_backups
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
from pgkeep.repository.wal import open_wal_object
from pgkeep.seal import age
from pgkeep.storage.interface import Store
from pgkeep.storage.local import LocalStore
from tests.backup.format_reader import ReadBackup
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, server_user
from tests.servers import PgServer

AT = "2026-11-20T12:00:00.000000Z"
BY = {"host": "test", "pid": 1, "version": "0"}
PASSPHRASE = "correct horse"


class Site:
    """``sealing`` is ``age``, ``passphrase`` or ``none``; the rest goes to the server."""

    def __init__(
        self,
        factory: ServerFactory,
        *,
        sealing: str = "age",
        repository_path: Path | None = None,
        conf: dict[str, str | int] | None = None,
        **server: Any,
    ) -> None:
        self.sealing = sealing
        self.identity, public = age.generate_identity()
        self.server: PgServer = factory.create(**server)
        self.root = self.server.root
        self.repository_path = repository_path or self.root / "repo"
        self.store: Store = LocalStore(self.repository_path, create=True, directory_mode=0o777)
        keys = None
        if sealing == "age":
            keys = make_key_set([public], None)
        elif sealing == "passphrase":
            keys = make_key_set([], PASSPHRASE)
        create_repository(self.store, keys, at=AT, by=BY)
        self.register(self.server.pgdata)
        self.config = self._write_config()
        archive = {"archive_mode": "on", "archive_command": self.archive_command}
        self.server.configure({"autovacuum": "off", **archive, **(conf or {})})
        self.server.start()

    # -- doing ---------------------------------------------------------------------------------

    def backup(
        self,
        server: PgServer | None = None,
        *,
        repository: Repository | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> BackupReport:
        """A backup in this process."""
        host = socket.gethostname()  # the program's, so that either sees that the other has ended
        wanted = replace(BackupOptions("main", 2, 1, host, low_priority=False), **options)
        with connect((server or self.server).conninfo) as connection:
            return run_backup(
                repository or self.repository(),
                connection,
                wanted,
                progress=progress or Silent(),
            )

    def start_program(self, *options: str) -> subprocess.Popen[str]:
        """``pgkeep backup`` as the server's user, with SIGINT not ignored.

        A shell has it ignored in what it starts in the background, a run of tests for example.
        """
        return popen_as_server_user(
            [
                "env",
                "--default-signal=INT",
                pgkeep_program(),
                "--config",
                self.config,
                "backup",
                "--jobs",
                "2",
                *options,
            ],
            env=self.server.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def repository(self, *, unlocked: bool = True, store: Store | None = None) -> Repository:
        unlock = None
        if unlocked and self.sealing == "age":
            unlock = Unlock([self.identity])
        elif unlocked and self.sealing == "passphrase":
            unlock = Unlock(passphrase=PASSPHRASE)
        state = HostState(self.root / "state-of-test")
        return open_repository(store or self.store, state, unlock=unlock)

    def register(self, pgdata: Path) -> None:
        """What ``pgkeep init`` does for a cluster."""
        control = read_control(pgdata)
        register_system(
            self.store,
            "main",
            control.system_identifier,
            postgres_major=control.major or 0,
            new_system=False,
            at=AT,
            by=BY,
        )

    # -- looking -------------------------------------------------------------------------------

    @property
    def archive_command(self) -> str:
        return f"{pgkeep_program()} --config {self.root / 'pgkeep.toml'} wal-push %p"

    @property
    def layout(self) -> Layout:
        return Layout("main", read_control(self.server.pgdata).system_identifier)

    def listed(self) -> list[Backup]:
        return list_backups(self.repository(), self.layout)

    def manifests(self) -> list[str]:
        """Keys of all manifests, under either prefix."""
        prefixes = (self.layout.manifests, self.layout.manifest_copies)
        return [info.key for prefix in prefixes for info in self.store.list(prefix)]

    def read(self, backup: str) -> ReadBackup:
        """A backup as a stranger would read it."""
        return ReadBackup(
            self.store,
            self.layout.root,
            backup,
            identity=self.identity,
            passphrase=PASSPHRASE if self.sealing == "passphrase" else "",
        )

    def check_restorable(self, backup: Backup) -> None:
        """Every object of a listed backup is there and opens, its WAL too."""
        self.read(backup.id).check_everything()
        repository, head = self.repository(), backup.head
        names = segments_between(
            Lsn.parse(head.start_lsn),
            Lsn.parse(head.stop_lsn),
            head.timeline,
            head.wal_segment_size,
        )
        for name in names:
            key = self.layout.wal_file(name)
            _, frames = open_wal_object(self.store.get(key), key, repository.keyring)
            assert sum(len(frame) for frame in frames) == head.wal_segment_size

    # -- inside --------------------------------------------------------------------------------

    def _write_config(self) -> Path:
        identity = self.root / "identity"
        identity.write_text(self.identity + "\n")
        (self.root / "state").mkdir(0o700)
        server_user().own(self.root / "state")
        path = self.root / "pgkeep.toml"
        path.write_text(f'repo = "file://{self.repository_path}"\nstate = "{self.root}/state"\n')
        path.chmod(0o600)
        server_user().own(path)
        server_user().own(self.repository_path)
        return path


class Steered(Silent):
    """A progress that calls a function once, at the first bytes or at a phase."""

    def __init__(self, *, at: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.phases: list[str] = []
        self._at, self._do = at, do
        self._lock = threading.Lock()

    def phase(self, name: str) -> None:
        self.phases.append(name)
        if self._at in name:
            self._once()

    def advance(self, size_bytes: int) -> None:
        if self._at == "first bytes":
            self._once()

    def _once(self) -> None:
        with self._lock:
            do, self._do = self._do, lambda: None
            do()


def until(condition: Callable[[], object], *, what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)
