"""A dump of a base backup: restored in scratch space, started, dumped, and removed again.

So production is asked for nothing, and a moment that has passed can be dumped, too. The server is
the one that ``restore --check`` starts: on a socket of its own, archiving nothing, with nothing in
it that acts by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgkeep.dump.directory import scratch_directory
from pgkeep.errors import DumpError, ProgramMissing
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.programs import Program, find_program
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import load_manifest
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.restore.plan import FetchAccess, RestoreOptions, RestorePlan
from pgkeep.restore.recovering import Recovery, likely_databases
from pgkeep.restore.run import plan_restore, run_restore
from pgkeep.restore.target import AskedTarget, latest
from pgkeep.restore.trial import TrialServer
from pgkeep.units import show_moment


@dataclass(frozen=True)
class FromBackup:
    """Which backup (None: the best for the target), and to when. ``user`` is tried as superuser
    where the backup does not say how that is called."""

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

    Raises ``RestoreError`` and its kinds (``CheckFailed``: it did not come through recovery),
    ``ProgramMissing``, ``DumpError``, ``IdentityNeeded``.
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
        program = _program(plan.resolution.backup.head.postgres_major, wanted, environ)
        facts = _server_facts(repository, layout, plan)
        run_restore(repository, layout, plan, access=access, progress=progress)
        preloaded = facts.get("shared_preload_libraries")
        server = TrialServer(
            options.into,
            Path(program.path),
            owner=plan.owner,
            major=program.major,
            preloaded=[str(one) for one in preloaded] if isinstance(preloaded, list) else None,
        )
        with server:
            progress.phase("starting the restored server, and recovering")
            progress.total(plan.wal_bytes)
            recovery = Recovery(
                server,
                options.into,
                users=(facts.get("superuser"), wanted.user, "postgres", plan.owner.name),
                databases=likely_databases(facts),
                start=plan.resolution.backup.start_lsn,
                progress=progress,
            )
            recovery.wait()
            address = server.address(recovery.database, recovery.user)
            plain = {name: text for name, text in environ.items() if not name.startswith("PG")}
            yield ServerAccess(address, plain), _source(plan)


def _program(major: int, wanted: FromBackup, environ: Mapping[str, str]) -> Program:
    why = f"The backup is of PostgreSQL {major}, and only the same starts on it."
    found = find_program("postgres", major, directories=wanted.programs, environ=environ, why=why)
    if found.major != major:
        raise ProgramMissing(
            f"No server of PostgreSQL {major} was found on this host.",
            why=f"{why} Found: {found.version}.",
            remedy=f"Install postgresql-{major}, or name its directory with PGKEEP_PG_BIN.",
        )
    return found


def _server_facts(repository: Repository, layout: Layout, plan: RestorePlan) -> dict[str, Any]:
    manifest = load_manifest(repository, layout, plan.resolution.backup)
    try:
        facts: dict[str, Any] = manifest.facts().get("server", {})
        return facts
    finally:
        manifest.close()


def _source(plan: RestorePlan) -> str:
    resolution = plan.resolution
    text = f"backup {resolution.backup.id}"
    if resolution.reaches is not None:
        text += f", as of {show_moment(resolution.reaches)}"
    return text
