"""Whenever a run ends, there is a whole dump or none, and nothing older was given up for it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import timedelta

import pytest

from pgkeep.config.keeping import parse_policy
from pgkeep.dump import expire as expire_module
from pgkeep.dump.expire import expire_dumps
from pgkeep.errors import DumpError, StoreDenied, StoreFull
from pgkeep.keep.look import store_clock
from pgkeep.progress import Silent
from pgkeep.repository.dump_files import PART_BYTES
from pgkeep.repository.dumps import read_dumps
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from tests.dump.kit import BY, Bench, Killed, KillingStore
from tests.dump.site import DumpSite
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, scrubbed_environment
from tests.servers import PgServer, wait_until

ALL_GO = parse_policy("1 dumps")


@pytest.mark.majors(18)
def test_killed_at_any_step_no_half_dump_is_there_and_the_old_one_stays(server: PgServer) -> None:
    server.psql("CREATE DATABASE second")
    store = KillingStore()
    bench = Bench(server, store)
    before = store.puts
    first = bench.dump()
    steps = store.puts - before
    assert steps > 8
    for after in (False, True):
        for step in range(1, steps + 1):
            store.at, store.after = store.puts + step, after
            with pytest.raises(Killed):
                bench.dump()
            store.at = 0
            found = bench.dumps()
            names = [one.id for one in found.dumps]
            if after and step == steps:
                assert len(names) == 2  # the contents were stored, and only the word of it was lost
                continue
            assert names == [first.dump], f"step {step}"
            # What is left belongs to nobody yet: a run may live that long.
            expire_dumps(bench.repository, [bench.layout], ALL_GO, by=BY, progress=Silent())
            assert [one.id for one in bench.dumps().dumps] == [first.dump]
    assert not [*store.list(bench.layout.dump(first.dump) + "nothing")]


@pytest.mark.majors(18)
def test_what_runs_that_died_have_left_goes_after_three_days_and_no_sooner(
    server: PgServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KillingStore()
    bench = Bench(server, store)
    store.at = store.puts + 4
    with pytest.raises(Killed):
        bench.dump()
    made = bench.dump()
    assert len(bench.dumps().litter) == 1
    now = store_clock(store, bench.layout, at="2026-11-20T00:00:00.000000Z", by=BY)
    for hours, left in ((71, 1), (73, 0)):
        later = now + timedelta(hours=hours)
        monkeypatch.setattr(expire_module, "store_clock", lambda *_, later=later, **__: later)
        expire_dumps(bench.repository, [bench.layout], ALL_GO, by=BY, progress=Silent())
        assert len(bench.dumps().litter) == left
    assert [one.id for one in bench.dumps().dumps] == [made.dump]


@pytest.mark.majors(18)
@pytest.mark.parametrize(
    ("failure", "error"), [(Failure.FULL, StoreFull), (Failure.DENIED, StoreDenied)]
)
def test_what_the_store_says_ends_the_run(
    server: PgServer, failure: Failure, error: type[Exception]
) -> None:
    store = FaultyStore(MemoryStore(), [])
    bench = Bench(server, store)
    store.fail(Fault(failure, "put", "*/dumps/*postgres.dump*"))
    with pytest.raises(error):
        bench.dump()
    assert not bench.dumps().dumps


@pytest.mark.majors(18)
def test_a_killed_pg_dump_is_no_end_of_a_dump(server: PgServer) -> None:
    """Its pipe ends as after a success. Here it is killed while another session holds a lock."""
    server.psql("CREATE DATABASE locked; CREATE DATABASE sound")
    server.psql("CREATE TABLE held AS SELECT 1", "locked")
    bench = Bench(server)
    with server.connect("locked", autocommit=False) as session:
        session.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"

        def end_it() -> None:
            wait_until(lambda: server.psql(waiting) == "1", what="pg_dump waits")
            server.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'pgkeep' AND datname = 'locked'"
            )

        import threading

        thread = threading.Thread(target=end_it)
        thread.start()
        made = bench.dump()
        thread.join()
    assert made.database_names == ["postgres", "sound"]
    assert [(one.database, one.what) for one in made.missing] == [("locked", "the database")]
    assert not made.is_complete
    with pytest.raises(DumpError, match="No database could be dumped"):
        bench.dump(include=("sound",), extra=("--no-such-option",))


@pytest.mark.majors(18)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_run_leaves_no_dump_and_no_pg_dump(
    site: DumpSite, number: signal.Signals, code: int
) -> None:
    site.server.psql("CREATE TABLE held AS SELECT 1")
    with site.server.connect(autocommit=False) as session:
        session.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        process = popen_as_server_user(
            [pgkeep_program(), "dump", "create"],
            env=scrubbed_environment(site.pgkeep.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_until(lambda: site.server.psql(waiting) == "1", what="pg_dump waits")
        os.kill(process.pid, number)
        assert process.wait(60) == code
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep'"
        # The server notices a client that is gone when it next speaks to it.
        session.rollback()
        wait_until(lambda: site.server.psql(ours) == "0", what="pg_dump is gone")
    listed = site.pgkeep.json("dump", "list")
    assert listed["dumps"] == []
    assert len(listed["unfinished"]) == 1


@pytest.mark.majors(18)
def test_two_runs_of_one_second_make_two_dumps(server: PgServer) -> None:
    bench = Bench(server)
    began = time.monotonic()
    made = [bench.dump(parts=frozenset()) for _ in range(3)]
    assert time.monotonic() - began < 60
    assert len({one.dump for one in made}) == 3
    assert len(read_dumps(bench.repository, bench.layout).dumps) == 3


def test_a_part_holds_whole_chunks_only() -> None:
    assert PART_BYTES % (64 * 1024 + 16) == 0
