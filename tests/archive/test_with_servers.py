"""Real servers archive with wal-push and recover with wal-fetch.

Invariants 4, 16, 17, 18.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.archive.kit import Host
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.installations import Installation
from tests.load import Load, prepare_pgbench
from tests.server_user import run_as_server_user
from tests.servers import PgServer, new_directory, wait_until

SWITCH = "SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()"


def start_archiving(
    factory: ServerFactory, host: Host, *, cluster: str = "main", **options: object
) -> PgServer:
    """A running server that archives into the host's repository."""
    server = factory.create(
        conf={"archive_mode": "on", "archive_command": host.command("wal-push")}, **options
    )
    host.register(server.pgdata, cluster=cluster)
    return server.start()


def base_copy(factory: ServerFactory, server: PgServer, *, restore_command: str) -> PgServer:
    """What ``pg_basebackup`` makes of a server, set up to recover; not started."""
    target = new_directory() / "copy"
    server.run("pg_basebackup", "-D", target, "-X", "none", "-c", "fast")
    copy = factory.adopt(target)
    copy.configure(
        {
            "restore_command": restore_command,
            "archive_mode": "off",
            "recovery_target_timeline": "latest",
        }
    )
    run_as_server_user(["touch", target / "recovery.signal"])
    return copy


def test_a_copy_recovers_every_row_from_the_archive(
    any_host: Host, server_factory: ServerFactory
) -> None:
    primary = start_archiving(server_factory, any_host)
    prepare_pgbench(primary)
    copy = base_copy(server_factory, primary, restore_command=any_host.command("wal-fetch"))
    with Load(primary, ddl=True) as load:
        load.wait_transactions(200)
        primary.psql(SWITCH)
        load.wait_transactions(200)
        primary.psql(SWITCH)
        load.wait_transactions(50)
    expected = cluster_digest(primary)
    primary.wait_archived()
    failed = primary.psql("SELECT failed_count FROM pg_stat_archiver")
    assert failed == "0", primary.log_tail()

    copy.start()
    copy.wait_recovery_end()

    assert_same_digest(cluster_digest(copy), expected)
    assert copy.psql("SELECT timeline_id FROM pg_control_checkpoint()") in ("1", "2")
    assert list((copy.pgdata / "pg_wal").glob("*.pgkeep-*")) == []


def test_a_promoted_server_archives_its_new_timeline(
    host: Host, server_factory: ServerFactory
) -> None:
    primary = start_archiving(server_factory, host)
    prepare_pgbench(primary)
    copy = base_copy(server_factory, primary, restore_command=host.command("wal-fetch"))
    primary.wait_archived()
    primary.stop()
    copy.configure({"archive_mode": "on", "archive_command": host.command("wal-push")})
    copy.start()
    copy.wait_recovery_end()
    copy.psql("CREATE TABLE after AS SELECT 1 AS one")
    second = base_copy(server_factory, copy, restore_command=host.command("wal-fetch"))
    copy.psql("INSERT INTO after VALUES (2)")
    expected = cluster_digest(copy)
    copy.wait_archived()
    assert "00000002.history" in host.wal_objects()
    # The primary stopped after a switch: what it left of the next segment is a .partial.
    second.start()
    second.wait_recovery_end()
    assert_same_digest(cluster_digest(second), expected)
    assert "00000003.history" not in host.wal_objects()


def test_a_missing_segment_stops_recovery_instead_of_ending_it(
    host: Host, server_factory: ServerFactory
) -> None:
    primary = start_archiving(server_factory, host)
    prepare_pgbench(primary)
    copy = base_copy(server_factory, primary, restore_command="")
    first = primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    for number in range(3):
        primary.psql(f"CREATE TABLE t{number} AS SELECT {number} AS x")
        last = primary.wait_archived()
    expected = cluster_digest(primary)
    middle = f"{first[:16]}{int(first[16:], 16) + 1:08X}"
    assert first < middle < last
    held = host.object_path(primary.pgdata, middle)
    held.rename(host.root / "held")
    command = host.command("wal-fetch", "--plan", f"{first}-{last}", "--retry-seconds", "1")
    copy.configure({"restore_command": command})

    copy.start(wait=False)
    assert copy.wait_exit() != 0
    assert f"{middle} is not in the repository, and this recovery needs it" in copy.log_text()
    assert "archive recovery complete" not in copy.log_text()

    # Nothing is lost: with the segment back, the same directory recovers to the end.
    (host.root / "held").rename(held)
    copy.start()
    copy.wait_recovery_end()
    assert_same_digest(cluster_digest(copy), expected)


def test_a_repository_that_is_away_stops_recovery_instead_of_ending_it(
    host: Host, server_factory: ServerFactory
) -> None:
    primary = start_archiving(server_factory, host)
    command = host.command("wal-fetch", "--retry-seconds", "1")
    copy = base_copy(server_factory, primary, restore_command=command)
    primary.wait_archived()
    primary.stop()
    host.repository_path.rename(host.root / "away")
    copy.start(wait=False)
    assert copy.wait_exit() != 0
    assert "archive recovery complete" not in copy.log_text()


def test_a_standby_takes_what_there_is_and_is_promoted_at_once(
    host: Host, server_factory: ServerFactory
) -> None:
    primary = start_archiving(server_factory, host)
    standby = base_copy(server_factory, primary, restore_command=host.command("wal-fetch"))
    (standby.pgdata / "recovery.signal").rename(standby.pgdata / "standby.signal")
    primary.psql("CREATE TABLE here AS SELECT 1 AS one")
    primary.wait_archived()
    standby.start()
    standby.wait_for("SELECT to_regclass('here') IS NOT NULL", what="the standby has the table")
    # A store that fails must block neither replay later nor promotion now.
    host.repository_path.rename(host.root / "away")
    started = time.monotonic()
    standby.psql("SELECT pg_promote()")
    standby.wait_recovery_end()
    assert time.monotonic() - started < 20
    assert standby.psql("SELECT one FROM here") == "1"


def test_a_fast_shutdown_is_not_held_up_by_a_repository_that_is_away(
    host: Host, server_factory: ServerFactory
) -> None:
    server = start_archiving(server_factory, host)
    server.wait_archived()
    host.repository_path.rename(host.root / "away")
    server.psql(SWITCH)
    server.wait_for(lambda: pushing(server), what="the server calls archive_command")
    started = time.monotonic()
    server.stop("fast")
    assert time.monotonic() - started < 12
    # Nothing is lost: the next start archives it.
    (host.root / "away").rename(host.repository_path)
    server.start()
    server.wait_for("SELECT last_archived_wal IS NOT NULL FROM pg_stat_archiver")
    waiting = server.pgdata / "pg_wal/archive_status"
    server.wait_for(lambda: not list(waiting.glob("*.ready")), what="everything is archived")


def test_a_server_rolled_back_behind_work_ahead_is_told_of_the_conflict(
    host: Host, server_factory: ServerFactory
) -> None:
    server = start_archiving(server_factory, host)
    archived = server.wait_archived()
    server.stop()
    snapshot = server.pgdata.with_name("snapshot")
    run_as_server_user(["cp", "-a", server.pgdata, snapshot])

    # Several segments become ready before the first of them is asked for.
    server.configure({"archive_command": "false"})
    server.start()
    for number in range(4):
        server.psql(f"CREATE TABLE one{number} AS SELECT {number} AS x; {SWITCH}")
    server.configure({"archive_command": host.command("wal-push")})
    server.reload()
    status = server.pgdata / "pg_wal/archive_status"
    server.wait_for(lambda: not list(status.glob("*.ready")), what="all is archived")
    ahead = {path.name for path in (host.state / "ahead").rglob("0000*")}
    assert len(ahead) >= 2
    server.stop("immediate")
    stored = {name: host.stored(server.pgdata, name) for name in ahead}

    shutil.rmtree(server.pgdata)
    snapshot.rename(server.pgdata)
    server.start()
    for number in range(4):
        server.psql(f"CREATE TABLE two{number} AS SELECT {number} AS y; {SWITCH}")
    server.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", what="archiving fails")
    assert "is already in the repository with other content" in server.log_text()
    assert "exit 31" in server.log_text()
    assert {name: host.stored(server.pgdata, name) for name in ahead} == stored
    done = {path.name[:24] for path in status.glob("*.done")}
    assert not {name for name in done if name > archived and name in ahead}


def test_two_servers_under_one_name_are_told(host: Host, server_factory: ServerFactory) -> None:
    first = start_archiving(server_factory, host)
    first.wait_archived()
    second = server_factory.create(
        conf={"archive_mode": "on", "archive_command": host.command("wal-push")}
    ).start()
    second.psql(SWITCH)
    second.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", what="archiving fails")
    assert "belongs to another cluster" in second.log_text()
    assert "exit 63" in second.log_text()
    assert first.psql("SELECT failed_count FROM pg_stat_archiver") == "0"


@pytest.mark.parametrize("megabytes", [1, 64])
def test_other_segment_sizes_on_real_servers(
    host: Host, newest_installation: Installation, megabytes: int
) -> None:
    factory = ServerFactory(newest_installation)
    try:
        primary = start_archiving(factory, host, wal_segsize_mb=megabytes)
        copy = base_copy(factory, primary, restore_command=host.command("wal-fetch"))
        prepare_pgbench(primary)
        expected = cluster_digest(primary)
        primary.wait_archived(timeout=120)
        copy.start()
        copy.wait_recovery_end()
        assert_same_digest(cluster_digest(copy), expected)
    finally:
        factory.close()


def test_a_missing_history_file_is_not_overlooked(
    host: Host, server_factory: ServerFactory
) -> None:
    """Recovery along a timeline whose history is gone must not end on another one."""
    primary = start_archiving(server_factory, host)
    copy = base_copy(server_factory, primary, restore_command=host.command("wal-fetch"))
    late = base_copy(server_factory, primary, restore_command="")
    primary.wait_archived()
    primary.stop()
    copy.configure({"archive_mode": "on", "archive_command": host.command("wal-push")})
    copy.start()
    copy.wait_recovery_end()
    copy.wait_archived()
    wait_until(lambda: "00000002.history" in host.wal_objects(), what="the history is archived")
    host.object_path(primary.pgdata, "00000002.history").unlink()
    plan = ("--plan", "00000002.history", "--retry-seconds", "1")
    late.configure(
        {
            "restore_command": host.command("wal-fetch", *plan),
            "recovery_target_timeline": "2",
        }
    )
    late.start(wait=False)
    assert late.wait_exit() != 0
    assert "00000002.history is not in the repository" in late.log_text()


def pushing(server: PgServer) -> bool:
    """Whether the server's archive_command runs now."""
    needle = str(server.pgdata).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"wal-push" in command and (process / "cwd").readlink() == Path(needle.decode()):
                return True
        except OSError:
            continue
    return False
