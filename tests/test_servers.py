"""The harness keeps its word: every other test with a server stands on it."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.digest import cluster_digest, differences, sequence_positions
from tests.factory import ServerFactory
from tests.installations import Installation
from tests.load import Load, prepare_pgbench
from tests.server_user import (
    LONGEST_SOCKET_PATH,
    run_as_server_user,
    scrubbed_environment,
    server_user,
)
from tests.servers import PORT, PgServer, wait_until


@pytest.mark.every_major
def test_a_server_starts_and_answers(server: PgServer, pg_installation: Installation) -> None:
    assert server.psql("SHOW server_version").split()[0] == pg_installation.version
    with server.connect() as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(server.pgdata),)


@pytest.mark.every_major
def test_each_cluster_has_an_identity_that_postgresql_accepts(
    server_factory: ServerFactory,
) -> None:
    query = "SELECT system_identifier FROM pg_control_system()"
    one, other = server_factory(), server_factory()
    assert one.psql(query) != other.psql(query)
    segment = one.pgdata / "pg_wal" / "000000010000000000000001"
    assert struct.unpack_from("=Q", segment.read_bytes(), 24)[0] == int(one.psql(query))
    one.kill9()
    one.start()  # recovery reads the segment, and refuses one of another system


def test_the_server_runs_as_an_unprivileged_user(server: PgServer) -> None:
    assert server.pgdata.stat().st_uid == server_user().uid != 0
    assert Path("/proc", str(server.pid)).stat().st_uid == server_user().uid


def test_socket_paths_are_short_enough(server: PgServer) -> None:
    longest = server.socket_dir / f".s.PGSQL.{PORT}.lock"
    assert len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH


def test_the_users_own_settings_are_out_of_sight(
    server: PgServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [name for name in os.environ if name.startswith("PG")]
    monkeypatch.setenv("PGHOST", "elsewhere.invalid")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=nowhere")
    monkeypatch.setenv("PGKEEP_REPO", "file:///nowhere")
    assert not [name for name in scrubbed_environment() if name.startswith("PG")]
    assert server.psql("SHOW search_path") == '"$user", public'


@pytest.mark.parametrize(("checksums", "shown"), [(True, "on"), (False, "off")])
@pytest.mark.parametrize("segment_mb", [1, 64])
def test_clusters_are_made_as_asked(
    server_factory: ServerFactory, checksums: bool, shown: str, segment_mb: int
) -> None:
    server = server_factory(
        checksums=checksums, wal_segsize_mb=segment_mb, conf={"cluster_name": "it's"}
    )
    assert server.psql("SHOW data_checksums") == shown
    assert server.psql("SHOW wal_segment_size") == f"{segment_mb}MB"
    assert server.psql("SHOW cluster_name") == "it's"


def test_a_restart_keeps_what_was_written(server: PgServer) -> None:
    server.psql("CREATE TABLE kept AS SELECT 1 AS i")
    server.restart()
    assert server.psql("SELECT i FROM kept") == "1"


def test_a_server_that_cannot_start_says_why(server_factory: ServerFactory) -> None:
    server = server_factory.create(conf={"shared_buffers": "nonsense"})
    with pytest.raises(AssertionError, match="invalid value for parameter"):
        server.start()
    assert not server.running


def test_kill9_leaves_no_process_and_recovers(server_factory: ServerFactory) -> None:
    server = server_factory(
        durable=True, conf={"archive_mode": "on", "archive_command": "sleep 600"}
    )
    server.psql("CREATE TABLE kept AS SELECT 1 AS i; SELECT pg_switch_wal()")
    wait_until(lambda: _archiver_sleeps(server), what="the archive command runs")
    tree = processes.descendants(server.pid)
    server.kill9()
    assert not [pid for pid in tree if processes.is_alive(pid)]
    server.start()
    assert server.psql("SELECT i FROM kept") == "1"
    assert "was not properly shut down" in server.log_text()
    server.kill9()


def _archiver_sleeps(server: PgServer) -> bool:
    return any(_command(pid).startswith(b"sleep\0") for pid in processes.descendants(server.pid))


def _command(pid: int) -> bytes:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path("/proc", str(pid), "cmdline").read_bytes()
    return b""


def test_archived_segments_are_waited_for(server_factory: ServerFactory, server_tmp: Path) -> None:
    command = f'cp "%p" "{server_tmp}/%f"'
    server = server_factory(conf={"archive_mode": "on", "archive_command": command})
    name = server.wait_archived()
    assert (server_tmp / name).stat().st_size == 16 << 20


def test_a_setting_is_in_effect_after_reload(server: PgServer) -> None:
    server.configure({"work_mem": "5MB"})
    server.reload()
    assert server.psql("SHOW work_mem") == "5MB"


def test_a_copied_directory_is_started_beside_its_original(server_factory: ServerFactory) -> None:
    original = server_factory()
    original.psql("CREATE TABLE kept AS SELECT 1 AS i")
    copy = original.root / "copy"
    original.run("pg_basebackup", "-D", copy, "--checkpoint=fast")
    second = server_factory.adopt(copy).start()
    second.wait_recovery_end()
    assert second.psql("INSERT INTO kept VALUES (2); SELECT sum(i) FROM kept") == "3"
    assert original.psql("SELECT sum(i) FROM kept") == "1"
    second.stop()
    assert second.run("pg_checksums", "--check", "-D", copy).returncode == 0


def test_a_failing_program_shows_its_output(server: PgServer) -> None:
    with pytest.raises(AssertionError, match="division by zero"):
        server.psql("SELECT 1/0")
    assert server.run("pg_controldata", server.root, check=False).returncode == 1


@pytest.mark.every_major
def test_equal_clusters_have_equal_digests(server_factory: ServerFactory) -> None:
    server = server_factory()
    prepare_pgbench(server)
    server.psql("CREATE SEQUENCE s; SELECT nextval('s'); CREATE DATABASE other")
    server.psql("CREATE VIEW v AS SELECT 1 AS one", "other")
    copy = server.root / "copy"
    server.run("pg_basebackup", "-D", copy, "--checkpoint=fast")
    second = server_factory.adopt(copy).start()
    before = cluster_digest(server)
    assert before["postgres"]["rows public.pgbench_accounts"].startswith("100000 ")
    assert differences(before, cluster_digest(second)) == []
    assert sequence_positions(second)["public.s"] >= sequence_positions(server)["public.s"] == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE pgbench_accounts SET abalance = 1 WHERE aid = 4711",
        "DELETE FROM pgbench_tellers WHERE tid = 1",
        "DROP TABLE pgbench_branches",
        "CREATE INDEX ON pgbench_accounts (bid)",
        "ALTER TABLE pgbench_accounts ADD COLUMN extra int",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT lo_from_bytea(0, 'large')",
        "CREATE DATABASE more",
        "CREATE ROLE somebody",
    ],
)
def test_a_change_shows_in_the_digest(changing_server: PgServer, change: str) -> None:
    before = cluster_digest(changing_server)
    assert cluster_digest(changing_server) == before
    changing_server.psql(change)
    assert differences(before, cluster_digest(changing_server)) != []


@pytest.fixture
def changing_server(newest_installation: Installation) -> Iterator[PgServer]:
    factory = ServerFactory(newest_installation)
    server = factory()
    prepare_pgbench(server)
    yield server
    factory.close()


def test_load_commits_until_it_is_stopped(server: PgServer) -> None:
    prepare_pgbench(server)
    with Load(server, clients=2, ddl=True) as load:
        load.wait_transactions(50)
        load.wait_churn_rounds(6)
    after = load.transactions()
    digest = cluster_digest(server)
    assert load.transactions() == after > 50
    assert cluster_digest(server) == digest
    # The load goes on while it is asked to stop, so what is there is told by the rounds it made.
    last = f"churn_{load.churn_rounds - 1}"
    assert load.churn_rounds >= 6
    assert server.psql(f"SELECT to_regclass('churn_0') IS NULL, to_regclass('{last}')") == (
        f"t|{last}"
    )


def test_servers_end_with_a_killed_run(newest_installation: Installation) -> None:
    """As when pytest is killed: nothing of ours is left to stop them."""
    code = (
        "import time\n"
        "from tests.installations import find_installations\n"
        "from tests.servers import PgServer\n"
        f"server = PgServer.create(find_installations()[{newest_installation.major}])\n"
        "print(server.start().pid, server.root, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    ) as run:
        assert run.stdout is not None
        pid, root = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes.is_alive(int(pid)), what="the server ends")
    wait_until(lambda: not Path(root).exists(), what="its directory is removed")


def test_the_server_can_run_pgkeep(pgkeep_program: Path) -> None:
    assert pgkeep_program.is_absolute()
    assert run_as_server_user(["test", "-x", pgkeep_program]).returncode == 0
