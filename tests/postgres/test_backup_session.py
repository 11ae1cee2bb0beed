"""A backup is begun and ended as the server wants it, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgkeep.errors import ServerError
from pgkeep.postgres.backup_session import BackupSession
from pgkeep.postgres.connection import ServerConnection, connect
from pgkeep.postgres.control import ClusterState
from pgkeep.postgres.datadir import read_control
from pgkeep.postgres.label import parse_backup_label, parse_tablespace_map
from pgkeep.postgres.privileges import backup_privileges
from tests.factory import ServerFactory
from tests.servers import PgServer, server_user


def open_session(server: PgServer, *, user: str = "postgres") -> ServerConnection:
    return connect(f"host={server.socket_dir} port=5432 user={user} dbname=postgres")


@pytest.mark.every_major
def test_a_backup_with_the_fewest_rights(server: PgServer, server_tmp: Path) -> None:
    server.psql("CREATE ROLE pgkeep LOGIN")
    for privilege in backup_privileges():
        server.psql(privilege.grant.format(role="pgkeep"))
    space = server_tmp / "a \\ strange\nplace"
    space.mkdir()
    server_user().own(space)
    with server.connect() as connection:
        connection.execute(b"SET allow_in_place_tablespaces = off")
        quoted = str(space).replace("'", "''")
        connection.execute(f"CREATE TABLESPACE odd LOCATION '{quoted}'".encode())
    with open_session(server, user="pgkeep") as connection:
        session = BackupSession(connection)
        with session:
            started = session.start("nightly", True)
            session.keepalive()
            point = session.create_restore_point("half way")
            stopped = session.stop()
        assert not connection.closed
        assert session.switch_wal() >= stopped.stop_lsn
    label = parse_backup_label(stopped.label_file)
    assert label.start_lsn == started.start_lsn
    assert (label.timeline, label.label) == (started.timeline, "nightly")
    assert (label.from_standby, started.from_standby) == (False, False)
    assert started.start_lsn < label.checkpoint_lsn < point < stopped.stop_lsn
    assert started.started_at < stopped.stopped_at
    (link,) = parse_tablespace_map(stopped.tablespace_map)
    assert link.location == str(space)


def test_without_tablespaces_the_map_is_empty(server: PgServer) -> None:
    with open_session(server) as connection, BackupSession(connection) as session:
        session.start("x", True)
        assert session.stop().tablespace_map == b""


def test_an_error_in_between_takes_the_backup_back(server: PgServer) -> None:
    connection = open_session(server)

    def failing_backup() -> None:
        with BackupSession(connection) as session:
            session.start("x", True)
            raise RuntimeError("copy failed")

    with pytest.raises(RuntimeError, match="copy failed"):
        failing_backup()
    assert connection.closed
    server.wait_for(lambda: "aborting backup" in server.log_text(), what="the backup is aborted")


def test_a_session_that_died_during_the_copy_is_noticed(server: PgServer) -> None:
    with open_session(server) as connection, BackupSession(connection) as session:
        session.start("x", True)
        pid = connection.raw.info.backend_pid
        server.psql(f"SELECT pg_terminate_backend({pid}, 10000)")
        with pytest.raises(ServerError):
            session.keepalive()


def test_steps_out_of_order_are_refused(server: PgServer) -> None:
    with open_session(server) as connection, BackupSession(connection) as session:
        with pytest.raises(ValueError, match="no backup to stop"):
            session.stop()
        with pytest.raises(ValueError, match="label"):
            session.start("two\nlines", True)
        with pytest.raises(ValueError, match="restore point"):
            session.create_restore_point("x" * 64)
        session.start("x", True)
        with pytest.raises(ValueError, match="already"):
            session.start("y", True)


def test_the_servers_directory_is_told_from_a_stale_clone(
    server: PgServer, server_tmp: Path
) -> None:
    clone = server_tmp / "clone"
    shutil.copytree(server.pgdata, clone)
    with open_session(server) as connection, BackupSession(connection) as session:
        assert session.control_checkpoint().matches(read_control(clone))
        session.start("x", True)
        now = session.control_checkpoint()
        assert now.matches(read_control(server.pgdata))
        assert not now.matches(read_control(clone))
        session.stop()


def test_a_standby_can_be_backed_up(server_factory: ServerFactory, server_tmp: Path) -> None:
    primary = server_factory()
    copy = server_tmp / "standby"
    primary.run("pg_basebackup", "-D", copy, "-R", "-c", "fast", "--no-sync")
    standby = server_factory.adopt(copy).start()
    with open_session(standby) as connection:
        assert connection.server_facts().is_in_recovery
        with BackupSession(connection) as session:
            started = session.start("from the standby", True)
            assert session.control_checkpoint().matches(read_control(copy))
            assert read_control(copy).state is ClusterState.IN_ARCHIVE_RECOVERY
            session.keepalive()
            stopped = session.stop()
    label = parse_backup_label(stopped.label_file)
    assert (label.from_standby, started.from_standby) == (True, True)
    assert (label.start_lsn, label.timeline) == (started.start_lsn, started.timeline)


def test_a_promotion_during_the_backup_is_noticed(
    server_factory: ServerFactory, server_tmp: Path
) -> None:
    primary = server_factory()
    copy = server_tmp / "standby"
    primary.run("pg_basebackup", "-D", copy, "-R", "-c", "fast", "--no-sync")
    standby = server_factory.adopt(copy).start()
    with open_session(standby) as connection, BackupSession(connection) as session:
        session.start("from the standby", True)
        standby.psql("SELECT pg_promote()")
        standby.wait_recovery_end()
        with pytest.raises(ServerError, match="promoted during the backup"):
            session.keepalive()
