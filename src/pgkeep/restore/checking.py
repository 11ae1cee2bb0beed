"""``--check``: the restored cluster is started, recovers, is looked at, and is stopped again.

Nothing says more about a restore than a server that came up from it. What starting does is what any
start would do: recovery runs to its target, and with the action ``promote`` it ends there, on a new
timeline. So a later start has nothing left to recover; and the check cannot be had for a standby
(whose recovery has no end), nor for what takes the original's place (which would write a timeline
that is not archived).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pgkeep.errors import CheckFailed, RestoreError, ServerError, UsageError
from pgkeep.postgres.facts import current_timeline
from pgkeep.postgres.relation import database_of
from pgkeep.progress import Progress
from pgkeep.restore.binaries import find_pg_ctl
from pgkeep.restore.looks import Look, look_at
from pgkeep.restore.plan import RestoreOptions, RestorePlan
from pgkeep.restore.recovering import Recovery, likely_databases
from pgkeep.restore.trial import CHECK_LOG, TrialServer, acting_libraries

_MOST = 5
# report_invalid_page() in src/backend/access/transam/xlogutils.c
_INVALID_PAGE = re.compile(r"page \d+ of relation (\S+) (?:is uninitialized|does not exist)")
_DATABASES = """
SELECT oid::int8, datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2
ORDER BY datname
"""


class CheckReport(NamedTuple):
    """What there is after recovery. ``paused`` is whether it waits at its target; ``problems`` are
    sentences, and none means that the check was passed; ``unloaded`` are libraries that were not
    preloaded for it. ``replayed_bytes`` is how much WAL was replayed in ``recovery_seconds``."""

    looks: tuple[Look, ...]
    problems: tuple[str, ...]
    paused: bool
    timeline: int
    last_commit: datetime | None
    recovery_seconds: float
    replayed_bytes: int
    unloaded: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as fields, for ``--json``."""
        return {
            "databases": [look.as_dict() for look in self.looks],
            "problems": list(self.problems),
            "paused": self.paused,
            "timeline": self.timeline,
            "last_commit": self.last_commit,
            "recovery_seconds": round(self.recovery_seconds, 3),
            "replayed_bytes": self.replayed_bytes,
            "libraries_not_loaded": list(self.unloaded),
        }


def refuse_check(options: RestoreOptions, major: int | None = None) -> None:
    """Raise ``UsageError`` where a check makes no sense, and ``RestoreError`` where no server of
    the major version, if that is given, is found."""
    if options.check is None:
        return
    why = None
    if options.standby is not None:
        why = "A standby's recovery has no end that could be waited for."
    elif options.continue_archiving:
        why = (
            "The check ends recovery with archiving off, and WAL of its timeline would be missing."
        )
    elif options.action == "shutdown":
        why = "A server that shuts down at its target cannot be looked at."
    if why is not None:
        raise UsageError(
            "--check does not go with these options.",
            why=why,
            remedy="Leave --check out, or restore a copy (--action promote or pause) to check.",
        )
    if major is not None and find_pg_ctl(major) is None:
        raise RestoreError(
            f"What is restored cannot be checked here: no PostgreSQL {major} was found.",
            remedy=f"Install PostgreSQL {major}, put its directory of programs on PATH, or leave "
            "--check out.",
        )


def check_restored(
    plan: RestorePlan, server_facts: Mapping[str, Any], *, progress: Progress
) -> CheckReport:
    """Start, wait for recovery, look, stop. Raises ``CheckFailed`` when recovery does not come to
    its end, and ``LocalIOError`` when nothing can be started."""
    options, major = plan.options, plan.resolution.backup.head.postgres_major
    refuse_check(options, major)
    preloaded = server_facts.get("shared_preload_libraries")
    libraries = [str(one) for one in preloaded] if isinstance(preloaded, list) else None
    server = TrialServer(
        options.into,
        Path(find_pg_ctl(major) or "").with_name("postgres"),
        owner=plan.owner,
        major=major,
        preloaded=libraries,
    )
    with server:
        report = _Check(server, plan, server_facts, progress).run()
    report = report._replace(unloaded=tuple(acting_libraries(libraries or ())))
    if not report.problems:
        server.forget_log()
    return report


def failure_of(report: CheckReport, into: Path) -> CheckFailed | None:
    """The error that a check with problems is."""
    if not report.problems:
        return None
    count = len(report.problems)
    more = f" (and {count - _MOST} more)" if count > _MOST else ""
    return CheckFailed(
        f"The cluster was restored into {into} and recovered, and the check found "
        f"{'a problem' if count == 1 else f'{count} problems'}.",
        why=f"{'; '.join(report.problems[:_MOST])}{more}.",
        remedy=f"The server's log is {into / CHECK_LOG}. If the original has the same damage, "
        "restore to an earlier moment; pgkeep verify --deep reads what is stored.",
    )


def missed_pages(log: Sequence[str], left_out: frozenset[int]) -> list[str]:
    """Pages that recovery missed in databases that were restored, as sentences. Only where some
    were left out does the server go on after such a page."""
    missed = {found[1] for line in log for found in _INVALID_PAGE.finditer(line)}
    return [
        f"WAL refers to a page of {path} that was not there"
        for path in sorted(missed)
        if database_of(path) not in left_out
    ]


class _Check:
    def __init__(
        self,
        server: TrialServer,
        plan: RestorePlan,
        facts: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._server, self._plan, self._progress = server, plan, progress
        self._without = frozenset(one.oid for one in plan.left_out)
        self._recovery = Recovery(
            server,
            plan.options.into,
            users=(facts.get("superuser"), "postgres", plan.owner.name),
            databases=likely_databases(facts, {one.name for one in plan.left_out}),
            start=plan.resolution.backup.start_lsn,
            progress=progress,
        )

    def run(self) -> CheckReport:
        self._progress.phase("starting the restored server for a check, and recovering")
        self._progress.total(self._plan.wal_bytes)
        began = time.monotonic()
        paused = self._recovery.wait()
        seconds = time.monotonic() - began
        with self._recovery.connect() as connection:
            self._progress.phase("looking at what was recovered")
            timeline = int(current_timeline(connection, in_recovery=paused))
            last = connection.value("SELECT pg_last_xact_replay_timestamp()")
            databases = [row for row in connection.rows(_DATABASES) if row[0] not in self._without]
        looks, problems = [], []
        for _, name in databases:
            try:
                look = self._look(name, paused=paused)
            except ServerError as error:
                problems.append(f"{name}: {_why(error)}")
            else:
                looks.append(look)
                problems += [f"{name}: {text}" for text in look.problems]
        problems += missed_pages(self._server.said(), self._without)
        replayed = self._recovery.replayed - self._plan.resolution.backup.start_lsn
        return CheckReport(
            tuple(looks), tuple(problems), paused, timeline, last, seconds, replayed, ()
        )

    # -- looking ----------------------------------------------------------------------------------

    def _look(self, name: str, *, paused: bool) -> Look:
        self._progress.note(f"looking at {name}")
        with self._server.connect(name, self._recovery.user) as connection:
            depth = self._plan.options.check
            assert depth is not None
            return look_at(connection, name, depth=depth, paused=paused)


def _why(error: ServerError) -> str:
    return (error.why or error.what).rstrip(".")
