"""One PostgreSQL server of our own, on a unix socket in the work directory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers import BenchError, Peers

SETTINGS = {
    "listen_addresses": "",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
    "shared_buffers": "512MB",
    "wal_level": "replica",
    "archive_mode": "on",
    "log_min_messages": "warning",
}
# The load may be lost and started again; what is measured afterwards is a server as people run it.
LOADING = {
    "fsync": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "maintenance_work_mem": "512MB",
    "synchronous_commit": "off",
}


@dataclass(frozen=True)
class Server:
    """A running server. ``pid`` is the postmaster's."""

    peers: Peers
    pgdata: Path
    socket: Path
    pid: int

    @property
    def env(self) -> dict[str, str]:
        """What libpq needs to find it."""
        return {"PGHOST": str(self.socket), "PGPORT": "5432", "PGUSER": "postgres"}

    def sql(self, text: str) -> str:
        """Run statements and return the last result, bare. Raises BenchError."""
        command = [self.peers.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]
        return run_tool(command, self.env, stdin=text)

    def archive_with(self, command: str) -> None:
        """Make ``command`` the archive command, once nothing is left to archive with the old."""
        self.sql("SELECT pg_switch_wal()")
        self.wait_until_archived()
        quoted = command.replace("'", "''")
        self.sql(f"ALTER SYSTEM SET archive_command = '{quoted}'")
        self.sql("SELECT pg_reload_conf()")
        wait_for(
            lambda: self.sql("SHOW archive_command") == command, "the archive command to change"
        )

    def wait_until_archived(self) -> None:
        """Return when no WAL file waits for the archiver."""
        status = self.pgdata / "pg_wal" / "archive_status"
        wait_for(lambda: not any(status.glob("*.ready")), "waiting WAL to be archived")

    def children_cpu_seconds(self) -> float:
        """CPU time of the server's processes that have ended (a connection is a process)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def create_cluster(peers: Peers, pgdata: Path) -> None:
    """``initdb``, page checksums on, C collation (so that no locale of the machine matters)."""
    options = ["-U", "postgres", "--auth=trust", "--data-checksums", "--no-locale", "-E", "UTF8"]
    run_tool([peers.program("initdb"), "-D", str(pgdata), *options], {})


@contextmanager
def running(
    peers: Peers, pgdata: Path, work: Path, settings: Mapping[str, str]
) -> Iterator[Server]:
    """The server, started with these settings; stopped (fast) when the block is left."""
    socket = work / "run"
    socket.mkdir(mode=0o700, exist_ok=True)
    (pgdata / "postmaster.pid").unlink(missing_ok=True)
    # Not on the command line: what stands there could not be changed while the server runs.
    lines = [f"{name} = '{value}'\n" for name, value in {**SETTINGS, **settings}.items()]
    (pgdata / "postgresql.auto.conf").write_text("".join(lines))
    command = [peers.program("postgres"), "-D", str(pgdata), "-k", str(socket)]
    with (work / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_env({})
        )
    server = Server(peers, pgdata, socket, process.pid)
    try:
        wait_for(lambda: _answers(server, process), "the server to start")
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _answers(server: Server, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise BenchError("The server did not start; its log is server.log in the work directory.")
    ready = subprocess.run(
        [server.peers.program("pg_isready"), "-q"], env=clean_env(server.env), check=False
    )
    return ready.returncode == 0


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 300) -> None:
    """Poll until ``condition()`` holds. Raises BenchError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.02)


def run_tool(command: list[str], env: Mapping[str, str], *, stdin: str | None = None) -> str:
    """Run something that is not measured; returns its output. Raises BenchError."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env=clean_env(env)
    )
    if done.returncode != 0:
        raise BenchError(
            f"{Path(command[0]).name} {' '.join(command[1:3])} ended with {done.returncode}: "
            f"{(done.stderr or done.stdout)[-1500:].strip()}"
        )
    return done.stdout.strip()


def clean_env(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anything that is meant for what is measured."""
    # S3_ and AWS_ are WAL-G's, too.
    meant = ("PG", "PGBACKREST_", "WALG_", "AWS_", "S3_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(meant)}
    return {**kept, "TZ": "UTC", **extra}
