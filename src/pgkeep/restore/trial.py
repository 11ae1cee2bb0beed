"""A restored server, started for a look: where nobody else finds it, and without doing anything.

It listens on a socket in a throwaway directory that only its owner may enter, and on no address.
Its own ``pg_hba.conf`` (which may ask for passwords, certificates, a directory service) is not
read: whoever can reach the socket is let in. It archives nothing, and nothing works in it that
would act by itself: no autovacuum, no logical replication, no scheduler of jobs. Everything that
makes it so stands on its command line, so a later start knows nothing of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgkeep.errors import LocalIOError
from pgkeep.postgres.children import User, dying_with_us
from pgkeep.postgres.connection import ServerConnection, connect
from pgkeep.restore.destination import supplementary_groups
from pgkeep.restore.plan import Owner

CHECK_LOG = "pgkeep.check.log"
# Preloaded libraries that run jobs of the original, which no look at a copy should do. WAL of none
# of them needs the library to be replayed.
_ACT_BY_THEMSELVES = frozenset(
    {
        "pg_cron",
        "pg_partman_bgw",
        "pg_timetable",
        "pgagent",
        "pglogical",
        "timescaledb",
        "pg_squeeze",
    }
)
_LONGEST_BASE = 60  # of the socket's whole path sockaddr_un holds 104 or 108 bytes
_LONGEST_STOP_SECONDS = 600


def acting_libraries(preloaded: Sequence[str]) -> list[str]:
    """Of the preloaded libraries, those that are not loaded for a look."""
    return [name for name in preloaded if _plain(name) in _ACT_BY_THEMSELVES]


class TrialServer:
    """Runs in a ``with``; leaving it stops the server (a fast shutdown) and removes the socket.

    ``preloaded`` are the libraries that the server loads, None if that is not known.
    Raises ``LocalIOError`` when it cannot be started at all; whether it runs, ``ended`` says.
    """

    def __init__(
        self,
        into: Path,
        postgres: Path,
        *,
        owner: Owner,
        major: int,
        preloaded: Sequence[str] | None,
    ) -> None:
        self._into, self._postgres, self._owner = into, postgres, owner
        self._major, self._preloaded = major, preloaded
        self.log = into / CHECK_LOG
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._folder = self._make_folder()
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            try:
                if self._owner.change:
                    os.fchown(handle, self._owner.uid, self._owner.gid)
                self._process = self._start(handle)
            finally:
                os.close(handle)
        except OSError as error:
            self._remove_folder()
            raise LocalIOError(
                f"The server in {self._into} could not be started for a look.",
                why=f"{error.strerror or error}.",
                remedy="Start it by hand, and see what it says.",
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
            # In it pg_ctl restart would find how this server was started.
            (self._into / "postmaster.opts").unlink(missing_ok=True)
        finally:
            self._remove_folder()

    @property
    def ended(self) -> bool:
        """Whether the server is not there any more."""
        return self._process is None or self._process.poll() is not None

    def connect(self, database: str, user: str) -> ServerConnection:
        """Raises ``ServerError``."""
        return connect(self.address(database, user))

    def address(self, database: str, user: str) -> dict[str, str]:
        """libpq's parameters for a session."""
        assert self._folder is not None
        return {
            "host": str(self._folder),
            "port": "5432",
            "dbname": database,
            "user": user,
            "sslmode": "disable",
        }

    def said(self) -> list[str]:
        """The lines of its log."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def stop(self) -> None:
        """Stop it as an orderly shutdown does, and wait for that."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_LONGEST_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def forget_log(self) -> None:
        """The log is of no more use."""
        self.log.unlink(missing_ok=True)

    def _make_folder(self) -> Path:
        base = tempfile.gettempdir()
        if len(base) > _LONGEST_BASE:
            base = "/tmp"
        folder = Path(tempfile.mkdtemp(prefix="pgkeep-check-", dir=base))
        for name, text in (("pg_hba.conf", "local all all trust\n"), ("pg_ident.conf", "")):
            (folder / name).write_text(text)
            self._give(folder / name)
        self._give(folder)
        return folder

    def _give(self, path: Path) -> None:
        if self._owner.change:
            os.chown(path, self._owner.uid, self._owner.gid)

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, log: int) -> subprocess.Popen[bytes]:
        words = [str(self._postgres), "-D", str(self._into)]
        for name, value in self._settings():
            words += ["-c", f"{name}={value}"]
        user, options = None, dict[str, Any]()
        if self._owner.change:
            user = User(self._owner.uid, self._owner.gid, supplementary_groups(self._owner))
            if sys.platform != "linux":
                options = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
        # A session of its own: a Ctrl-C at the terminal is ours to pass on.
        return subprocess.Popen(
            dying_with_us(words, signal.SIGINT, user=user),
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **options,
        )

    def _settings(self) -> list[tuple[str, str]]:
        folder = str(self._folder)
        settings = [
            ("listen_addresses", ""),
            ("port", "5432"),
            ("unix_socket_directories", folder),
            ("unix_socket_group", ""),
            ("unix_socket_permissions", "0700"),
            ("hba_file", f"{folder}/pg_hba.conf"),
            ("ident_file", f"{folder}/pg_ident.conf"),
            ("external_pid_file", ""),
            ("ssl", "off"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_min_messages", "warning"),
            ("log_line_prefix", ""),
            ("log_error_verbosity", "default"),
            ("lc_messages", "C"),
            ("archive_mode", "off"),
            ("autovacuum", "off"),
            ("hot_standby", "on"),
            ("max_logical_replication_workers", "0"),
            ("restart_after_crash", "off"),
        ]
        if self._major >= 17:
            settings.append(("event_triggers", "off"))  # some fire when somebody connects
        if self._preloaded is not None and acting_libraries(self._preloaded):
            rest = [name for name in self._preloaded if _plain(name) not in _ACT_BY_THEMSELVES]
            settings.append(("shared_preload_libraries", ", ".join(f'"{one}"' for one in rest)))
        return settings


def _plain(library: str) -> str:
    return library.rpartition("/")[2].removesuffix(".so")
