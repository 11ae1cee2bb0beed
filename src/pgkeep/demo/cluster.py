"""The demo's servers: children of ours on the embedded PostgreSQL, which end when we end.

They listen on a Unix socket in a folder of their own and nowhere else. PostgreSQL refuses to
run as root, so root runs everything here as ``nobody``, the only other user that surely exists.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgkeep.errors import ServerError

_STOP_SECONDS = 60
_START_SECONDS = 60
_CONF = """
listen_addresses = ''
shared_buffers = 64MB
max_wal_size = 512MB
log_line_prefix = '%m '
timezone = 'UTC'
"""


class User:
    """As whom the demo's programs run: ourselves, or ``nobody`` for root."""

    def __init__(self) -> None:
        self._entry = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    def own(self, path: Path) -> Path:
        """Make a folder that this user owns."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self._entry:
            os.chown(path, self._entry.pw_uid, self._entry.pw_gid)
        return path

    def write(self, path: Path, text: str) -> Path:
        """Write a file that only this user reads."""
        path.write_text(text)
        path.chmod(0o600)
        if self._entry:
            os.chown(path, self._entry.pw_uid, self._entry.pw_gid)
        return path

    def popen_arguments(self) -> dict[str, Any]:
        if self._entry is None:
            return {}
        return {"user": self._entry.pw_uid, "group": self._entry.pw_gid, "extra_groups": []}


def scrubbed(environ: Mapping[str, str], **more: str) -> dict[str, str]:
    """An environment in which neither libpq nor pgkeep finds anything of the caller's."""
    kept = {name: value for name, value in environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", **more}


class DemoServer:
    """One data directory and the server in it. Use it in a ``with``: leaving stops the server."""

    def __init__(
        self, programs: Path, pgdata: Path, *, folder: Path, user: User, environ: Mapping[str, str]
    ) -> None:
        self.programs, self.pgdata, self.folder = programs, pgdata, folder
        self._user = user
        self.environ = scrubbed(environ, PGHOST=str(folder), PGDATABASE="postgres", PGUSER="demo")
        self._process: subprocess.Popen[bytes] | None = None

    def initdb(self, settings: str) -> None:
        """Make a new cluster with page checksums."""
        self.run(
            "initdb", "-D", str(self.pgdata), "-U", "demo", "--auth=trust", "--no-locale",
            "--encoding=UTF8", "--data-checksums", "--no-sync", "--no-instructions",
        )  # fmt: skip
        with open(self.pgdata / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(_CONF + settings)

    def start(self) -> DemoServer:
        """Start, and return when the server takes connections. Raises ``ServerError``."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.pgdata, "-k", self.folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd="/",
                start_new_session=True,  # Ctrl-C is ours; we stop the server in order
                **self._user.popen_arguments(),
            )
        self._wait_until("SELECT 1", "1")
        return self

    def wait_until_open(self) -> None:
        """Return when recovery has ended and the server accepts writes. Raises ``ServerError``."""
        self._wait_until("SELECT pg_is_in_recovery()", "f")

    def stop(self) -> None:
        """Fast shutdown; whoever does not stop in a minute is killed."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def sql(self, statement: str) -> str:
        """What psql prints for a statement, without decoration. Raises ``ServerError``."""
        return self.run("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs; its output. Raises ``ServerError``."""
        done = subprocess.run(
            [self.programs / program, *arguments],
            capture_output=True,
            text=True,
            env=self.environ,
            cwd="/",
            check=False,
            **self._user.popen_arguments(),
        )
        if done.returncode != 0:
            raise ServerError(f"{program} failed.", why=done.stderr.strip() or done.stdout.strip())
        return str(done.stdout).strip()

    def begin(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of PostgreSQL's programs and go on."""
        return subprocess.Popen(
            [self.programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environ,
            cwd="/",
            start_new_session=True,
            **self._user.popen_arguments(),
        )

    def log_tail(self, lines: int = 12) -> str:
        log = (self.folder / "log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])

    def _wait_until(self, statement: str, answer: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._process is not None and self._process.poll() is not None:
                raise ServerError("The demo's server ended.", why=self.log_tail())
            try:
                if self.sql(statement) == answer:
                    return
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        "The demo's server does not answer.", why=str(error)
                    ) from error
            if time.monotonic() > deadline:
                raise ServerError("The demo's server is not ready.", why=self.log_tail())
            time.sleep(0.1)


def run_as(
    user: User, command: Sequence[str], *, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program as the demo's user and collect what it prints."""
    return subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        env=dict(environ),
        cwd="/",
        check=False,
        **user.popen_arguments(),
    )
