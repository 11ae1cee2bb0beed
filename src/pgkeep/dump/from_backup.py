"""A dump of a base backup: restored in scratch space, started, dumped, and removed again.

So production is asked for nothing, and a moment that has passed can be dumped, too. The server
that is started belongs to us alone: it listens on a socket in a directory that nobody else enters,
takes its own access rules, and is a copy, which archives nothing. It is ours to end; if we are
killed, the kernel ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pgkeep.dump.directory import scratch_directory
from pgkeep.dump.process import dying_with_us
from pgkeep.errors import DumpError, ServerError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.programs import Program, find_program
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.restore.plan import FetchAccess, RestoreOptions, RestorePlan
from pgkeep.restore.run import plan_restore, run_restore
from pgkeep.restore.target import AskedTarget, latest
from pgkeep.units import show_moment

_STOP_SECONDS = 60
# On the command line, where they win over what the backup's own files say.
_SETTINGS = {
    "listen_addresses": "",
    "archive_mode": "off",
    "autovacuum": "off",
    "bgwriter_delay": "10s",
    "external_pid_file": "",
    "fsync": "off",
    "huge_pages": "try",
    "logging_collector": "off",
    "log_destination": "stderr",
    "shared_buffers": "128MB",
    "ssl": "off",
}


@dataclass(frozen=True)
class FromBackup:
    """Which backup (None: the best for the target), and to when."""

    backup: str | None = None
    target: AskedTarget = field(default_factory=latest)
    jobs: int = 2
    scratch: Path | None = None
    programs: str | None = None
    user: str | None = None


@contextmanager
def restored_server(
    repository: Repository,
    layout: Layout,
    wanted: FromBackup,
    environ: Mapping[str, str],
    *,
    progress: Progress,
) -> Iterator[tuple[ServerAccess, str]]:
    """How the server is reached while it runs, and where its content comes from, as a text.

    Raises ``RestoreError`` and its kinds, ``ProgramMissing``, ``DumpError``, ``IdentityNeeded``.
    """
    if os.geteuid() == 0:
        raise DumpError(
            "A backup cannot be dumped by root, since PostgreSQL refuses to run as root.",
            remedy="Run the command as the user that the server runs as, for example postgres.",
        )
    with scratch_directory(wanted.scratch) as scratch:
        access = FetchAccess((), {}, obstacle="it is restored for a dump only")
        options = RestoreOptions(
            scratch / "data", wanted.target, backup=wanted.backup, wal="copied", jobs=wanted.jobs
        )
        plan = plan_restore(repository, layout, options, access=access, progress=progress)
        major = plan.resolution.backup.head.postgres_major
        program = _program(major, wanted, environ)
        run_restore(repository, layout, plan, access=access, progress=progress)
        progress.phase("starting the restored server")
        with _running(program, scratch, environ) as process:
            yield _wait(process, scratch, wanted, environ), _source(plan)


def _program(major: int, wanted: FromBackup, environ: Mapping[str, str]) -> Program:
    why = f"The backup is of PostgreSQL {major}, and only the same starts on it."
    found = find_program("postgres", major, directories=wanted.programs, environ=environ, why=why)
    if found.major != major:
        from pgkeep.errors import ProgramMissing

        raise ProgramMissing(
            f"No server of PostgreSQL {major} was found on this host.",
            why=f"{why} Found: {found.version}.",
            remedy=f"Install postgresql-{major}, or name its directory with PGKEEP_PG_BIN.",
        )
    return found


@contextmanager
def _running(
    program: Program, scratch: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    (scratch / "hba").write_text("local all all trust\n")
    (scratch / "ident").write_text("")
    settings = {
        **_SETTINGS,
        "unix_socket_directories": str(scratch),
        "hba_file": str(scratch / "hba"),
        "ident_file": str(scratch / "ident"),
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (scratch / "log").open("ab") as log:
        process = subprocess.Popen(
            dying_with_us(
                [program.path, "-D", str(scratch / "data"), "-p", "5432", *options],
                signal.SIGINT,
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={name: text for name, text in environ.items() if not name.startswith("PG")},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()


def _wait(
    process: subprocess.Popen[bytes], scratch: Path, wanted: FromBackup, environ: Mapping[str, str]
) -> ServerAccess:
    """Until it has recovered. Raises ``DumpError`` when it ends instead."""
    plain = {name: text for name, text in environ.items() if not name.startswith("PG")}
    users = list(dict.fromkeys(filter(None, (wanted.user, "postgres", environ.get("USER")))))
    problem: ServerError | None = None
    while process.poll() is None:
        for user in users:
            access = ServerAccess(
                {"host": str(scratch), "port": "5432", "user": user, "dbname": "postgres"}, plain
            )
            try:
                with access.connect() as connection:
                    if not connection.value("SELECT pg_is_in_recovery()"):
                        return access
            except ServerError as error:
                problem = error
        if problem is not None and "does not exist" in (problem.why or ""):
            raise DumpError(
                f"The restored server has no role {' or '.join(users)} to dump it as.",
                remedy="Name a superuser of it: PGUSER.",
            )
        problem = None
        time.sleep(0.2)
    text = (scratch / "log").read_text(errors="replace")
    raise DumpError(
        "The restored server ended before it had recovered.",
        why=" ".join(text.splitlines()[-5:]),
        remedy="Restore the backup (pgkeep restore) and start it by hand to see what it lacks.",
    )


def _source(plan: RestorePlan) -> str:
    resolution = plan.resolution
    text = f"backup {resolution.backup.id}"
    if resolution.reaches is not None:
        text += f", as of {show_moment(resolution.reaches)}"
    return text
