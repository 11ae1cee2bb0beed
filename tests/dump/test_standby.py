"""Dumps of a standby: conflicts are tried again, and replay is never left paused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pgkeep.config.keeping import parse_policy
from pgkeep.dump import database
from pgkeep.dump.expire import expire_dumps
from pgkeep.dump.process import Ended, Processes, run_reading
from pgkeep.errors import DumpError
from pgkeep.progress import Silent
from pgkeep.repository import dump_files
from pgkeep.seal.age_file import SEALED_CHUNK_BYTES
from tests.dump.kit import BY, Bench
from tests.dump.site import DumpSite
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, scrubbed_environment
from tests.servers import PgServer, wait_until

STATE = "SELECT pg_get_wal_replay_pause_state()"


def standby_of(factory: ServerFactory, primary: PgServer) -> PgServer:
    root = primary.root / "standby"
    primary.run("pg_basebackup", "-D", root, "-c", "fast", "-R", "-X", "stream")
    standby = factory.adopt(Path(root))
    standby.configure(
        {
            "max_standby_streaming_delay": "1ms",
            "hot_standby_feedback": "off",
            "log_recovery_conflict_waits": "on",
            "deadlock_timeout": "10ms",
        }
    )
    return standby.start()


@pytest.mark.majors(18)
def test_replay_is_paused_while_it_is_dumped_and_goes_on_however_that_ends(
    site: DumpSite,
) -> None:
    site.server.psql("CREATE TABLE held AS SELECT 1; CREATE TABLE churned AS SELECT 1 AS n")
    standby = standby_of(site.factory, site.server)
    # Whole, with replay paused, from the standby.
    made = site.dump("--pause-replay", **site.at(standby))
    assert made["facts"]["is_in_recovery"]
    assert made["complete"]
    assert standby.psql(STATE) == "not paused"
    # Somebody else's pause is theirs, before and after.
    standby.psql("SELECT pg_wal_replay_pause()")
    wait_until(lambda: standby.psql(STATE) == "paused", what="replay is paused by hand")
    assert site.dump("--pause-replay", **site.at(standby))["complete"]
    assert standby.psql(STATE) == "paused"
    standby.psql("SELECT pg_wal_replay_resume()")
    # Killed in the middle, it goes on as well: a slow pg_dump gives us the time.
    slow = site.write(
        "pg_dump",
        "#!/bin/sh\ncase $1 in --version) echo 'pg_dump (PostgreSQL) 18.4';; *) sleep 60;; esac\n",
    )
    slow.chmod(0o755)
    environ = {**site.pgkeep.environ, **site.at(standby)}
    environ["PGKEEP_PG_BIN"] = f"{slow.parent}:{environ['PGKEEP_PG_BIN']}"
    process = popen_as_server_user(
        [
            pgkeep_program(),
            "dump",
            "create",
            "--pause-replay",
            "--compression",
            "gzip:1",
            "--parts",
            "none",
        ],
        env=scrubbed_environment(environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: standby.psql(STATE) == "paused", what="replay is paused")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: standby.psql(STATE) == "not paused", what="replay goes on")


@pytest.mark.majors(18)
def test_a_conflict_with_replay_is_tried_again(
    server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = server_factory()
    primary.psql("CREATE TABLE churned AS SELECT generate_series(1, 200000) AS n")
    standby = standby_of(server_factory, primary)
    bench = Bench(primary)
    bench.server = standby
    tries: list[int] = []
    real: Any = run_reading

    def disturbed(*arguments: object, **options: object) -> object:
        tries.append(1)
        if len(tries) == 1:
            # As a conflict ends it: by replay, in the middle of its COPY.
            ended = real(*arguments, **options)
            said = "pg_dump: error: ERROR:  canceling statement due to conflict with recovery"
            return ended._replace(code=1, said=said)
        return real(*arguments, **options)

    monkeypatch.setattr(database, "run_reading", disturbed)
    monkeypatch.setattr(dump_files, "PART_BYTES", 2 * SEALED_CHUNK_BYTES)
    made = bench.dump(parts=frozenset(), compression="none")
    assert len(tries) == 2
    assert made.is_complete
    assert [step.exit_code for step in made.steps] == [1, 0]
    file = made.file("database", "postgres")
    assert file is not None
    assert file.name == "postgres.2.dump"
    # What the first try stored belongs to no dump, and goes with the next expiry.
    folder = bench.layout.dump(made.dump)
    parts = {folder + part.name for one in made.files for part in one.parts}
    kept = parts | {f"{folder}begun", f"{folder}contents"}
    left = {info.key for info in bench.store.list(folder)} - kept
    assert left
    policy = parse_policy("2 dumps")
    for dry_run in (True, False):
        (report,) = expire_dumps(
            bench.repository, [bench.layout], policy, by=BY, progress=Silent(), dry_run=dry_run
        )
        assert (report.leftovers, report.deleted) == (len(left), [])
    assert {info.key for info in bench.store.list(folder)} == kept
    assert bench.restore(made, primary, rename="back", databases=("postgres",))
    assert primary.psql("SELECT count(*) FROM churned", "back") == "200000"
    tries.clear()
    monkeypatch.setattr(database, "is_conflict", lambda said: True)
    lost = Bench(primary)
    lost.server = standby
    real = lambda *a, **o: Ended(1, "due to conflict with recovery")  # noqa: E731
    with pytest.raises(Exception, match="--pause-replay"):
        lost.dump(parts=frozenset(), tries=2)


class Conflicts:
    """Lets replay meet pg_dump in the middle of its output: at its first bytes the primary does
    what a standby cannot replay while they are read, for so many tries."""

    def __init__(
        self, primary: PgServer, standby: PgServer, statements: str, *, tries: int
    ) -> None:
        self.primary, self.standby, self.statements = primary, standby, statements
        self.left, self.calls = tries, 0

    def reading(
        self,
        processes: Processes,
        argv: Sequence[str],
        environment: Mapping[str, str],
        consume: Callable[[memoryview], object],
    ) -> Ended:
        met: list[bool] = []
        self.calls += 1

        def take(data: memoryview) -> None:
            if self.left and not met:
                met.append(True)
                self.left -= 1
                self.meet()
            elif met:
                time.sleep(0.02)  # a slow reader, so that there is time for being ended
            consume(data)

        return run_reading(processes, argv, environment, take)

    def meet(self) -> None:
        """Returns when replay waits for pg_dump, or has ended it. Not when it goes on: for that
        pg_dump has to, who waits for us."""
        before = len(MEETINGS.findall(self.standby.log_text()))
        for statement in self.statements.split(";"):
            self.primary.psql(statement)
        wait_until(
            lambda: (
                len(MEETINGS.findall(self.standby.log_text())) > before
                or self.standby.psql(WAITING) != "0"
            ),
            what="replay meets pg_dump",
        )


# Of waiting for a lock nothing is logged when the patience was over before.
WAITING = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
MEETINGS = re.compile("recovery still waiting|due to conflict with recovery")
BIG = "CREATE TABLE big AS SELECT n, md5(n::text) AS text FROM generate_series(1, 200000) n"


def goes_on(primary: PgServer, standby: PgServer) -> None:
    """Replay does, up to where the primary is."""
    assert standby.psql(STATE) == "not paused"
    primary.psql("CREATE TABLE IF NOT EXISTS marks (); DROP TABLE marks; CHECKPOINT")
    here = primary.psql("SELECT pg_current_wal_flush_lsn()")
    wait_until(
        lambda: standby.psql(f"SELECT pg_last_wal_replay_lsn() >= '{here}'") == "t",
        what="replay goes on",
    )


@pytest.mark.majors(15, 18)
@pytest.mark.parametrize(
    ("statements", "rows"),
    [
        ("DELETE FROM big WHERE n % 2 = 0; VACUUM big", "100000"),
        ("ALTER TABLE big ADD COLUMN more int", "200000"),
    ],
    ids=["snapshot", "lock"],
)
def test_replay_that_ends_pg_dump_costs_a_try_and_no_rows(
    server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch, statements: str, rows: str
) -> None:
    primary = server_factory()
    primary.psql(BIG)
    standby = standby_of(server_factory, primary)
    bench = Bench(primary)
    bench.server = standby
    conflicts = Conflicts(primary, standby, statements, tries=1)
    monkeypatch.setattr(database, "run_reading", conflicts.reading)
    made = bench.dump(parts=frozenset(), include=("postgres",), compression="none")
    assert conflicts.calls == 2
    assert [step.exit_code == 0 for step in made.steps] == [False, True]
    assert "due to conflict with recovery" in made.steps[0].said
    assert made.is_complete
    goes_on(primary, standby)
    bench.restore(made, primary, rename="back", databases=("postgres",))
    assert primary.psql("SELECT count(*) FROM big", "back") == rows


@pytest.mark.majors(18)
def test_replay_that_ends_every_try_is_named_with_what_helps_and_pausing_it_does(
    server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = server_factory()
    primary.psql(BIG)
    standby = standby_of(server_factory, primary)
    bench = Bench(primary)
    bench.server = standby
    churn = "UPDATE big SET n = -n WHERE n % 100 = 0; VACUUM big"
    conflicts = Conflicts(primary, standby, churn, tries=2)
    monkeypatch.setattr(database, "run_reading", conflicts.reading)
    options: dict[str, Any] = {"include": ("postgres",), "compression": "none"}
    with pytest.raises(DumpError, match=r"due to conflict with recovery.*--pause-replay"):
        bench.dump(parts=frozenset(), tries=2, **options)
    assert conflicts.calls == 2
    assert bench.dumps().dumps == ()
    goes_on(primary, standby)
    # The same with replay paused: nothing meets anything, and it goes on afterwards.
    conflicts = Conflicts(primary, standby, churn, tries=1)
    monkeypatch.setattr(conflicts, "meet", lambda: [primary.psql(one) for one in churn.split(";")])
    monkeypatch.setattr(database, "run_reading", conflicts.reading)
    made = bench.dump(parts=frozenset(), pause_replay=True, **options)
    assert (conflicts.calls, conflicts.left, made.is_complete) == (1, 0, True)
    goes_on(primary, standby)
