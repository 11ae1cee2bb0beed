"""The main job, told once from beginning to end on a real server.

A live PostgreSQL under load is backed up, its WAL archived, a table is lost, and the cluster comes
back as it was just before. Nothing is simulated: the commands shown are the commands run, and the
digests at the end are computed by the two servers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgkeep.demo.cluster import DemoServer, User, run_as, scrubbed
from pgkeep.demo.embedded import embedded_bin_dir
from pgkeep.errors import PgkeepError, RestoreError
from pgkeep.seal import age
from pgkeep.units import format_duration, format_size

LOST = "pgbench_accounts"
_TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")
_LOAD_SECONDS = 6.0
_SERVER_SETTINGS = """
wal_level = replica
archive_mode = on
archive_timeout = 10s
archive_command = '{command}'
"""


@dataclass(frozen=True)
class DemoReport:
    """How it went. Times in seconds, sizes in bytes."""

    database_bytes: int
    repository_bytes: int
    backup_seconds: float
    restore_seconds: float
    recovery_seconds: float
    rows: int
    digests_equal: bool
    folder: str | None


@dataclass(frozen=True)
class _Stage:
    """Where the story takes place."""

    say: Callable[[str], None]
    program: tuple[str, ...]
    folder: Path
    user: User
    environ: dict[str, str]

    def pgkeep(self, *arguments: str) -> float:
        """Show a command, run it, show what it says; how long it took. Raises ``PgkeepError``."""
        self.say(f"  $ pgkeep {' '.join(_quoted(arguments))}")
        began = time.monotonic()
        done = run_as(self.user, [*self.program, *arguments], environ=self.environ)
        for line in done.stdout.splitlines():
            self.say(f"    {line}")
        if done.returncode != 0:
            raise RestoreError(
                f"pgkeep {arguments[0]} ended with exit code {done.returncode}.",
                why=done.stderr.strip(),
            )
        return time.monotonic() - began


def run_demo(
    say: Callable[[str], None],
    *,
    program: Sequence[str],
    environ: Mapping[str, str],
    scale: int = 15,
    keep: bool = False,
) -> DemoReport:
    """Tell the story; ``program`` is how pgkeep is called, by absolute path.

    ``scale`` is pgbench's (15 MB each). With ``keep`` the folder stays. Raises ``PgkeepError``; the
    servers are stopped whatever happens.
    """
    programs = embedded_bin_dir()
    folder = Path(tempfile.mkdtemp(prefix="pgkdemo", dir="/tmp"))
    folder.chmod(0o755)
    user = User()
    stage = _Stage(say, tuple(program), folder, user, _environment(folder, environ))
    try:
        return _tell(stage, programs, scale, environ, keep=keep)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    return scrubbed(
        environ,
        HOME=str(folder),
        NO_COLOR="1",
        PGKEEP_REPO=(folder / "repository").as_uri(),
        PGKEEP_STATE=str(folder / "state"),
        PGKEEP_IDENTITY=str(folder / "identity.txt"),
        PGHOST=str(folder / "s"),
        PGUSER="demo",
        PGDATABASE="postgres",
    )


def _tell(
    stage: _Stage, programs: Path, scale: int, environ: Mapping[str, str], *, keep: bool
) -> DemoReport:
    say, folder, user = stage.say, stage.folder, stage.user
    for name in ("s", "s2", "state", "repository", "work"):
        user.own(folder / name)
    secret, public = age.generate_identity()
    user.write(folder / "identity.txt", secret + "\n")

    say("1. A PostgreSQL server, with pgbench's bank in it")
    live = DemoServer(
        programs, folder / "work" / "data", folder=folder / "s", user=user, environ=environ
    )
    with live:
        live.initdb(_SERVER_SETTINGS.format(command=_archive_command(stage)))
        live.start()
        live.run("pgbench", "-i", "-q", "-s", str(scale))
        size = int(live.sql("SELECT sum(pg_database_size(oid)) FROM pg_database"))
        say(f"  {live.sql('SHOW server_version')} with {format_size(size)} of data")

        say("2. A repository, sealed to a key that the server does not have")
        stage.pgkeep("init", "--recipient", public)

        say("3. A full backup, while clients go on writing")
        with _load(live):
            backup_seconds = stage.pgkeep("backup")
            time.sleep(_LOAD_SECONDS)

        say("4. More is written; then somebody drops the wrong table")
        digest, moment = _digest(live), live.sql("SELECT clock_timestamp()")
        rows = int(live.sql(f"SELECT count(*) FROM {LOST}"))
        say(f"  {moment}  all is well: {rows:,} accounts")
        live.sql(f"DROP TABLE {LOST}")
        say(f"  {live.sql('SELECT clock_timestamp()')}  DROP TABLE {LOST}")
        live.sql("INSERT INTO pgbench_history(tid, bid, aid, delta) VALUES (1, 1, 1, 0)")
        _archive_all(live)
        stage.pgkeep("list")

        say("5. The cluster as it was just before, in a second directory")
        into = folder / "work" / "back"
        restore_seconds = stage.pgkeep("restore", "--into", str(into), "--time", moment)
        back = DemoServer(programs, into, folder=folder / "s2", user=user, environ=environ)
        with back:
            began = time.monotonic()
            back.start()
            back.wait_until_open()
            recovery_seconds = time.monotonic() - began
            say(f"  The copy was started; it recovered in {format_duration(recovery_seconds)}.")
            equal = _digest(back) == digest
            found = int(back.sql(f"SELECT count(*) FROM {LOST}"))
    stored = sum(
        path.stat().st_size for path in (folder / "repository").rglob("*") if path.is_file()
    )
    report = DemoReport(
        size, stored, backup_seconds, restore_seconds, recovery_seconds, found, equal,
        str(folder) if keep else None,
    )  # fmt: skip
    _conclude(say, report, rows)
    return report


def _conclude(say: Callable[[str], None], report: DemoReport, rows: int) -> None:
    if not report.digests_equal or report.rows != rows:
        raise RestoreError(
            "The restored cluster differs from what it was.",
            why=f"{report.rows} of {rows} accounts came back, and the digests are not equal.",
            remedy="This is a bug in pgkeep: please report it.",
        )
    say("6. Is it the same?")
    say(f"  {report.rows:,} accounts are back; the digests of all four tables are equal.")
    say("")
    say(
        f"Done. backup {format_duration(report.backup_seconds)}, restore "
        f"{format_duration(report.restore_seconds)}, recovery "
        f"{format_duration(report.recovery_seconds)}; "
        f"{format_size(report.database_bytes)} of data, backup and WAL in "
        f"{format_size(report.repository_bytes)}."
    )
    if report.folder:
        say(f"Everything is kept in {report.folder}.")


def _archive_command(stage: _Stage) -> str:
    """The server's environment is ours, so the settings reach its archive command."""
    config = stage.folder / "pgkeep.toml"
    repo, state = stage.environ["PGKEEP_REPO"], stage.environ["PGKEEP_STATE"]
    stage.user.write(config, f'repo = "{repo}"\nstate = "{state}"\n')
    return " ".join([*stage.program, "--config", str(config), "wal-push", "%p"])


def _digest(server: DemoServer) -> dict[str, str]:
    """Of each table: how many rows, and a sum of their hashes, in whatever order they lie."""
    return {
        table: server.sql(
            f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t"
        )
        for table in _TABLES
    }


def _archive_all(server: DemoServer) -> None:
    """Have the server finish its segment, and wait until its archiver has taken it."""
    wanted = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    deadline = time.monotonic() + 60
    while server.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") < wanted:
        if time.monotonic() > deadline:
            raise PgkeepError("The WAL was not archived in a minute.", why=server.log_tail())
        time.sleep(0.1)


@contextlib.contextmanager
def _load(server: DemoServer) -> Iterator[None]:
    process = server.begin("pgbench", "-n", "-c", "2", "-T", "600")
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _wait_for_clients(server)


def _wait_for_clients(server: DemoServer) -> None:
    """A killed client's last transaction may still be running when it is gone."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 20
    while server.sql(query) != "0" and time.monotonic() < deadline:
        time.sleep(0.05)


def _quoted(arguments: Sequence[str]) -> list[str]:
    return [f"'{argument}'" if " " in argument else argument for argument in arguments]
