"""Dumps of a standby: conflicts are tried again, and replay is never left paused."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pgkeep.config.keeping import parse_policy
from pgkeep.dump import database
from pgkeep.dump.expire import expire_dumps
from pgkeep.dump.process import Ended, run_reading
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
    standby.configure({"max_standby_streaming_delay": "1ms", "hot_standby_feedback": "off"})
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
