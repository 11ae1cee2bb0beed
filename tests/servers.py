"""Real PostgreSQL servers for tests.

A server is our child, not pg_ctl's: it is waited for, its log is at hand, and it ends with
us. It listens on a Unix socket in a directory of its own, so servers never meet. initdb runs
once a session for each kind of cluster; every server starts from a copy, which takes a tenth
of the time, and gets a system identifier of its own, as initdb would have given it.

What decides where a server listens stands on its command line, all else in its
``postgresql.conf``: a restored copy can thus be started beside its original, while the
settings that pgkeep writes are not overridden.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psycopg

from tests import processes, templates
from tests.installations import Installation, find_installations
from tests.server_user import (
    base_directory,
    popen_as_server_user,
    run_as_server_user,
    scrubbed_environment,
    server_user,
)
from tests.warden import warden

__all__ = [
    "Installation",
    "PgServer",
    "find_installations",
    "new_directory",
    "run_as_server_user",
    "server_user",
]

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
PORT = 5432

# Small, quiet and without durability: what a test needs of a server that it does not crash.
DEFAULT_CONF: dict[str, str | int] = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": 40,
    "log_line_prefix": "%m [%p] %q%a ",
    "log_checkpoints": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


made_directories: list[Path] = []
"""Those without a name, in their order; what a test made of them goes when it ends."""


def new_directory(name: str = "", *, root: Path | None = None) -> Path:
    """A new empty directory that the server's user owns and can reach; short path.

    It is removed at the end of the process, and without ``name`` at the end of the test that is
    under way: what several tests use needs one.
    """
    path = Path(tempfile.mkdtemp(prefix=f"pgk{name}", dir=root or base_directory()))
    warden().keep_directory(path)
    if not name:
        made_directories.append(path)
    path.chmod(0o755)
    return server_user().own(path)


class PgServer:
    """One data directory and the server on it, which may be running or not."""

    def __init__(self, installation: Installation, *, pgdata: Path, root: Path) -> None:
        self.installation = installation
        self.pgdata = pgdata
        self.root = root
        self.log_path = root / "log"
        self.socket_dir = root / "s"
        self.socket_dir.mkdir(exist_ok=True)
        server_user().own(self.socket_dir)
        self._process: subprocess.Popen[Any] | None = None

    @classmethod
    def create(
        cls,
        installation: Installation,
        *,
        root: Path | None = None,
        checksums: bool = True,
        wal_segsize_mb: int = 16,
        durable: bool = False,
        conf: Mapping[str, str | int] | None = None,
    ) -> PgServer:
        """A new cluster, not yet started.

        ``durable`` keeps fsync on, for tests in which the machine of this server "crashes".
        ``conf`` goes to postgresql.conf; values are written as strings and may hold quotes.
        """
        root = root or new_directory()
        template = templates.template(
            installation, checksums=checksums, wal_segsize_mb=wal_segsize_mb
        )
        server = cls(installation, pgdata=root / "data", root=root)
        templates.clone(template, server.pgdata)
        settings = {**DEFAULT_CONF, **({"fsync": "on"} if durable else {}), **(conf or {})}
        server.configure(settings)
        return server

    @classmethod
    def adopt(
        cls, installation: Installation, pgdata: Path, *, root: Path | None = None
    ) -> PgServer:
        """A server on a directory that exists, for example a restored one; not yet started.

        It gets a socket and a log of its own; nothing in the directory is touched.
        """
        return cls(installation, pgdata=pgdata, root=root or new_directory())

    def __enter__(self) -> PgServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- life ------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, timeout: float = 120) -> PgServer:
        """Start it, and with ``wait`` return once it accepts connections (also read-only ones).

        Raises AssertionError with the end of the log if it ends instead.
        """
        assert not self.running, "it runs already"
        with open(self.log_path, "ab") as log:
            self._process = popen_as_server_user(
                [self.program("postgres"), "-D", self.pgdata, *self._listening()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=scrubbed_environment(),
                start_new_session=True,
            )
        warden().keep_process(self._process.pid)
        if wait:
            self.wait_for(self._accepts, timeout=timeout, what="accepts connections")
        return self

    def stop(self, mode: StopMode = "fast", *, timeout: float = 120) -> None:
        """Stop it and wait for its end; nothing happens if it does not run.

        Raises AssertionError with the end of the log if it has not ended after ``timeout``
        seconds; the server is then killed.
        """
        if self._process is None:
            return
        process = self._process
        if process.poll() is None:
            process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            log = self.log_tail()
            self.kill9()
            raise AssertionError(f"no end after {mode} and {timeout} s\n{log}") from None
        self._ended()

    def kill9(self) -> None:
        """Kill every process of it at once, those of its archive and restore commands too."""
        process = self._process
        assert process is not None, "it does not run"
        processes.kill_tree(process.pid)
        process.wait()
        self._ended()

    def restart(self, mode: StopMode = "fast") -> PgServer:
        self.stop(mode)
        return self.start()

    def close(self) -> None:
        """End it without ceremony, whatever its state."""
        if self._process is not None:
            with contextlib.suppress(AssertionError):
                self.stop("immediate", timeout=20)

    def wait_exit(self, *, timeout: float = 120) -> int:
        """Wait until it ends by itself and return its exit code."""
        assert self._process is not None, "it was not started"
        code = self._process.wait(timeout)
        self._ended()
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    # -- talking to it ---------------------------------------------------------------------

    @property
    def conninfo(self) -> str:
        """A libpq connection string; ``dbname`` can be added to it."""
        return f"host={self.socket_dir} port={PORT} user=postgres"

    @property
    def env(self) -> dict[str, str]:
        """An environment in which libpq's programs, and pgkeep, find this server."""
        return scrubbed_environment(
            {
                "PGHOST": str(self.socket_dir),
                "PGPORT": str(PORT),
                "PGUSER": "postgres",
                "PGDATABASE": "postgres",
            }
        )

    def connect(self, dbname: str = "postgres", **options: Any) -> psycopg.Connection:
        """A psycopg connection, autocommit unless told otherwise."""
        options.setdefault("autocommit", True)
        return psycopg.connect(self.conninfo, dbname=dbname, **options)

    def psql(self, sql: str, dbname: str = "postgres") -> str:
        """Run SQL through ``psql -X -At`` and return what it printed, without the last newline."""
        done = run_as_server_user(
            [self.program("psql"), "-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-d", dbname],
            env=self.env,
            input=sql,
        )
        return done.stdout.rstrip("\n")

    def run(
        self, program: str, *args: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's user, connected to this server."""
        options.setdefault("env", self.env)
        return run_as_server_user([self.program(program), *args], check=check, **options)

    def program(self, name: str) -> Path:
        return self.installation.program(name)

    def log_text(self) -> str:
        """All that it has logged so far, over restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    # -- settings --------------------------------------------------------------------------

    def configure(self, settings: Mapping[str, str | int]) -> None:
        """Append settings to postgresql.conf; a running server must be told (``reload``)."""
        lines = [
            f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n"
            for name, value in settings.items()
        ]
        with open(self.pgdata / "postgresql.conf", "a") as file:
            file.writelines(lines)

    def reload(self) -> None:
        """Let it read its configuration again, and wait until it has."""
        with self.connect() as connection:
            before = _value(connection, "SELECT pg_conf_load_time()")
            _value(connection, "SELECT pg_reload_conf()")
            wait_until(
                lambda: _value(connection, "SELECT pg_conf_load_time()") != before,
                what="read its configuration",
            )

    # -- waiting ---------------------------------------------------------------------------

    def wait_for(
        self, condition: Callable[[], object] | str, *, timeout: float = 60, what: str = ""
    ) -> None:
        """Wait until a function answers true, or a query returns a true first column.

        Raises AssertionError with the end of the log when the time is over or the server ends.
        """
        check = (
            (lambda: self._query_is_true(condition)) if isinstance(condition, str) else condition
        )

        def checked() -> object:
            fulfilled = check()
            if not fulfilled and self._process is not None and not self.running:
                raise AssertionError(
                    f"the server ended (exit code {self._process.returncode})\n{self.log_tail()}"
                )
            return fulfilled

        try:
            wait_until(checked, timeout=timeout, what=what or str(condition))
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    def wait_recovery_end(self, *, timeout: float = 120) -> None:
        """Wait until it accepts writes."""
        self.wait_for("SELECT NOT pg_is_in_recovery()", timeout=timeout, what="recovery ends")

    def wait_archived(self, *, timeout: float = 60) -> str:
        """Switch WAL and wait until the segment that held the last record is archived.

        Returns the name of that segment.
        """
        # Something to switch away from: a switch at the very start of a segment does nothing,
        # and from 17 on its position then names the next segment.
        self.psql("SELECT pg_logical_emit_message(false, 'test', 'switch')")
        name = self.psql("SELECT pg_walfile_name(pg_switch_wal())")
        done = self.pgdata / "pg_wal" / "archive_status" / f"{name}.done"
        query = f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver"
        self.wait_for(
            lambda: done.exists() or self._query_is_true(query),
            timeout=timeout,
            what=f"{name} is archived",
        )
        return name

    # -- inside ----------------------------------------------------------------------------

    def _listening(self) -> Sequence[str]:
        return ("-k", str(self.socket_dir), "-p", str(PORT), "-c", "listen_addresses=")

    def _accepts(self) -> bool:
        """What pg_ctl looks at: the last line of the lock file, if it is this process's."""
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = bool(lines) and lines[0] == str(self.pid)
        return ours and len(lines) >= 8 and lines[7].strip() in ("ready", "standby")

    def _query_is_true(self, sql: str) -> bool:
        with self.connect() as connection:
            return bool(_value(connection, sql))

    def _ended(self) -> None:
        if self._process is not None:
            warden().release_process(self._process.pid)
        self._process = None


def wait_until(
    condition: Callable[[], object], *, timeout: float = 60, what: str = "condition"
) -> None:
    """Poll a condition; raises TimeoutError that names it."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def _value(connection: psycopg.Connection, sql: str) -> Any:
    row = connection.execute(sql.encode()).fetchone()
    return None if row is None else row[0]
