"""One cluster, its standby, its repository, and what may happen to them, one step after another."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pgkeep.backup.run import BackupReport
from pgkeep.postgres.history import parse_history
from pgkeep.postgres.standby import Standby
from pgkeep.progress import Silent
from pgkeep.verify.run import VerifyOptions, verify
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.installations import Installation
from tests.load import Load, prepare_pgbench
from tests.program import pgkeep_program
from tests.restore.site import BY, Site, as_server_user
from tests.restore.verifybackup import verify_backup
from tests.server_user import popen_as_server_user, run_as_server_user
from tests.servers import PgServer
from tests.soak.changes import Changes
from tests.soak.moments import KINDS, Moment, record_moment
from tests.standbys import caught_up, make_standby, promote

_CONF: dict[str, str | int] = {
    "track_commit_timestamp": "on",
    "wal_retrieve_retry_interval": "100ms",
    "allow_in_place_tablespaces": "on",
}

_RESTORE_POINT_BYTES = 200  # at most, with what precedes it


class World:
    """Everything random is drawn from ``seed`` before it is done. Close it in the end."""

    def __init__(
        self, installation: Installation, seed: int, *, say: Callable[[str], None]
    ) -> None:
        self._chance, self._say = random.Random(seed), say
        self._factory = ServerFactory(installation)
        self._site = Site(self._factory, conf=_CONF, sealed=bool(seed % 2))
        self._primary = self._site.server
        self._changes = Changes(self._chance)
        self._moments: list[Moment] = []
        self._number = 0
        self._restored: Path | None = None
        self.steps = 0
        self._doing = ""

    def begin(self) -> None:
        """A first backup, and a standby."""
        self._changes.prepare(self._primary)
        prepare_pgbench(self._primary)
        self._make_backup(self._primary)
        self._standby = make_standby(self._factory, self._primary)

    @property
    def doing(self) -> str:
        """The last restore that was begun, for the report of a failure."""
        return self._doing

    def step(self) -> None:
        """Do the next thing."""
        kinds = {
            self._change: 7,
            self._moment: 5,
            self._backup: 4,
            self._killed_backup: 2,
            self._restore: 4,
            self._fail_over: 1,
            self._crash: 1,
            self._verify: 1,
        }
        self.steps += 1
        kind = self._chance.choices(list(kinds), list(kinds.values()))[0]
        began = time.monotonic()
        said = kind()
        name = kind.__name__.strip("_").replace("_", " ")
        self._say(f"{self.steps:5} {name}: {said} ({time.monotonic() - began:.1f} s)")

    def finish(self) -> None:
        """Every moment that is known can be gone back to."""
        self._moment()
        for moment in self._chance.sample(self._moments, min(2, len(self._moments))):
            kind = self._chance.choice(KINDS)
            self._say(f"  end restore: {self._restore_to(moment, kind)}")
        self._verify()

    def close(self) -> None:
        self._factory.close()
        self._site.close()

    # -- what may happen ----------------------------------------------------------------------

    def _change(self) -> str:
        return ", ".join(self._changes.some(self._primary))

    def _moment(self) -> str:
        moment = self._mark(self._primary)
        return f"{moment.name} at {moment.lsn} on timeline {moment.timeline}"

    def _backup(self) -> str:
        from_standby = self._chance.random() < 0.4
        full, under_load = self._chance.random() < 0.15, self._chance.random() < 0.5
        jobs = self._chance.choice([1, 2, 5])
        server = self._standby if from_standby else self._primary
        if from_standby:
            # It begins at a restart point of the timeline that it follows.
            self._primary.psql("CHECKPOINT")
            caught_up(self._standby, self._primary)
        with Load(self._primary, rate=300) if under_load else nullcontext():
            report = self._make_backup(server, primary=self._primary.conninfo, full=full, jobs=jobs)
        assert not report.failed
        where = "standby" if from_standby else "primary"
        return f"{report.head.backup}, {report.head.kind}, from the {where}"

    def _killed_backup(self) -> str:
        after = self._chance.uniform(0.2, 1.2)
        argv: list[str | Path] = [
            pgkeep_program(),
            "--config",
            self._site.config,
            "backup",
            "--jobs",
            "2",
        ]
        process = popen_as_server_user(
            argv, env=self._primary.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return f"after {after:.2f} s, exit code {process.returncode}"

    def _restore(self) -> str:
        if not self._moments:
            return "no moment yet"
        moment, kind = self._chance.choice(self._moments), self._chance.choice(KINDS)
        return self._restore_to(moment, kind)

    def _fail_over(self) -> str:
        """The standby takes over, perhaps without what came last, or while the old primary goes on;
        a new standby is restored."""
        old, how = self._primary, self._chance.choice(["fast", "immediate", "behind", "split"])
        # Moments that the new primary does not have are on the old timeline.
        if how == "behind":
            _cut_off(self._standby)
            self._mark(old)
        else:
            caught_up(self._standby, old)
            old.wait_archived()
        if how != "split":
            old.stop("fast" if how == "fast" else "immediate")
        promote(self._standby)
        if how == "split":
            self._mark(old)
            old.stop("immediate")
        self._primary = self._site.server = self._standby
        self._note_lost()
        self._primary.wait_archived()
        shutil.rmtree(old.pgdata, ignore_errors=True)
        self._make_backup(self._primary)
        self._number += 1
        # pg_wal of the new primary may be recycled before the standby asks for it.
        into = f"standby {self._number}"
        report = self._site.restore(into, standby=Standby(primary=self._primary.conninfo))
        self._standby = self._factory.adopt(report.plan.options.into).start()
        caught_up(self._standby, self._primary)
        lost = sum(moment.lost for moment in self._moments)
        return f"{how}; {lost} moments are left behind"

    def _crash(self) -> str:
        self._primary.kill9()
        self._primary.start()
        return "the primary was killed and recovered"

    def _verify(self) -> str:
        level = self._chance.choice(["quick", "scrub", "deep"])
        site = self._site
        options = VerifyOptions(level, BY)
        with as_server_user():  # whose the records are to be
            report = verify(site.repository, site.layout, options, progress=Silent())
        assert not report.problems, report.problems
        return level

    def _mark(self, server: PgServer) -> Moment:
        """A moment, all of whose WAL is stored."""
        self._number += 1
        server.psql(f"UPDATE pgbench_accounts SET abalance = {self._number} WHERE aid % 97 = 0")
        moment = record_moment(server, f"m{self._number}")
        self._moments.append(moment)
        server.wait_archived()
        return moment

    # -- inside -------------------------------------------------------------------------------

    def _make_backup(self, server: PgServer, **options: Any) -> BackupReport:
        # As the program has it, so that a run sees at once that another one was killed.
        return self._site.backup(server, host=socket.gethostname(), **options)

    def _restore_to(self, moment: Moment, kind: str) -> str:
        """Restore, check what was written, recover, compare."""
        delta = self._restored is not None and self._chance.random() < 0.5
        wal = self._chance.choice([None, "copied"])
        by_timeline = moment.lost or self._chance.random() < 0.5
        if not delta and self._restored is not None:
            shutil.rmtree(self._restored)
        said = f"{moment.name} by {kind}{', over a directory' if delta else ''}"
        self._doing = said
        report = self._site.restore(
            "restored",
            target=moment.asked(kind),
            timeline=moment.timeline if by_timeline else None,
            wal=wal,
            delta=delta,
        )
        into = self._restored = report.plan.options.into
        verify_backup(self._site.server.installation, into)
        server = self._site.recovered(report)
        assert_same_digest(moment.digest, cluster_digest(server))
        server.stop()
        run_as_server_user([server.program("pg_checksums"), "--check", into])
        return said

    def _note_lost(self) -> None:
        """Which moments the new timeline does not have."""
        timeline = int(self._primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")[:8], 16)
        content = (self._primary.pgdata / "pg_wal" / f"{timeline:08X}.history").read_bytes()
        history = parse_history(content, timeline)
        for moment in self._moments:
            behind = moment.lsn + _RESTORE_POINT_BYTES
            moment.lost = not history.contains(moment.timeline, behind)


def _cut_off(standby: PgServer) -> None:
    """Let it get no WAL any more, neither from its primary nor from the repository."""
    for name in ("primary_conninfo", "restore_command"):
        standby.psql(f"ALTER SYSTEM SET {name} = ''")
    standby.reload()
    standby.wait_for("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
