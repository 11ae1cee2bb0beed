"""We learn what a backup needs with the fewest rights, and say what to do when we cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.errors import ServerError
from pgkeep.postgres.connection import connect
from pgkeep.postgres.control import parse_control_file
from pgkeep.postgres.privileges import backup_privileges, missing_privileges
from tests.factory import ServerFactory
from tests.servers import PgServer, server_user


def conninfo(server: PgServer, *, user: str = "postgres") -> str:
    return f"host={server.socket_dir} port=5432 user={user} dbname=postgres"


@pytest.fixture
def role(server: PgServer) -> str:
    """A role that has nothing but what ``backup_privileges`` grants."""
    server.psql("CREATE ROLE pgkeep LOGIN")
    for privilege in backup_privileges():
        server.psql(privilege.grant.format(role="pgkeep"))
    return "pgkeep"


@pytest.mark.every_major
def test_a_role_with_the_fewest_rights_sees_all_that_a_superuser_sees(
    server: PgServer, role: str
) -> None:
    with connect(conninfo(server, user=role)) as few, connect(conninfo(server)) as all_rights:
        assert missing_privileges(few) == ()
        assert few.server_facts() == all_rights.server_facts()
        assert None not in (few.server_facts().data_directory, few.server_facts().config_file)


def test_each_privilege_is_needed_and_its_lack_is_noticed(server: PgServer, role: str) -> None:
    for privilege in backup_privileges():
        server.psql(
            privilege.grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM ").format(role=role)
        )
        with connect(conninfo(server, user=role)) as connection:
            assert missing_privileges(connection) == (privilege,)
        server.psql(privilege.grant.format(role=role))


def test_without_rights_facts_are_unknown_and_functions_are_refused(server: PgServer) -> None:
    server.psql("CREATE ROLE nothing LOGIN")
    with connect(conninfo(server, user="nothing")) as connection:
        facts = connection.server_facts()
        assert (facts.data_directory, facts.config_file) == (None, None)
        assert len(missing_privileges(connection)) == len(backup_privileges())
        with pytest.raises(ServerError, match="permission denied") as refused:
            connection.value("SELECT pg_switch_wal()")
    assert "pgkeep setup" in (refused.value.remedy or "")


@pytest.mark.every_major
def test_facts_are_those_of_the_cluster(server_factory: ServerFactory, server_tmp: Path) -> None:
    server = server_factory(
        conf={
            "archive_mode": "on",
            "archive_command": "exit 1",
            "archive_timeout": "2min",
            "cluster_name": "blue",
            "wal_level": "logical",
        }
    )
    server.psql("CREATE DATABASE other ENCODING 'UTF8' TEMPLATE template0")
    space = server_tmp / "space"
    space.mkdir()
    server_user().own(space)
    server.psql(f"CREATE TABLESPACE far LOCATION '{space}'")
    control = parse_control_file((server.pgdata / "global" / "pg_control").read_bytes())
    with connect(conninfo(server)) as connection:
        facts = connection.server_facts()
    assert facts.major == server.installation.major
    assert facts.system_identifier == control.system_identifier
    assert facts.timeline == 1
    assert not facts.is_in_recovery
    assert facts.data_directory == str(server.pgdata)
    assert facts.config_file == str(server.pgdata / "postgresql.conf")
    assert (facts.block_size, facts.wal_segment_size) == (8192, control.wal_segment_size)
    assert facts.relation_segment_blocks == control.relation_segment_blocks
    assert facts.data_checksums == control.data_checksums
    assert (facts.archive_mode, facts.archive_command) == ("on", "exit 1")
    assert (facts.archives, facts.archive_timeout_seconds) == (True, 120)
    assert (facts.cluster_name, facts.wal_level) == ("blue", "logical")
    assert facts.max_connections == control.max_connections
    assert facts.shared_preload_libraries == ()
    assert [database.name for database in facts.databases] == [
        "other",
        "postgres",
        "template0",
        "template1",
    ]
    assert {database.provider for database in facts.databases} == {"libc"}
    assert [one.name for one in facts.databases if one.is_template] == ["template0", "template1"]
    assert (facts.superuser, facts.dynamic_shared_memory_type) == ("postgres", "posix")
    assert (facts.shared_memory_bytes or 0) >= 1 << 20
    assert [(found.name, found.location) for found in facts.tablespaces] == [("far", str(space))]
    assert ("plpgsql", "1.0") in facts.extensions


def test_the_settings_of_a_role_do_not_reach_us(server: PgServer) -> None:
    server.psql(
        "ALTER ROLE postgres SET statement_timeout = '1ms';"
        "ALTER ROLE postgres SET search_path = nowhere;"
        "ALTER ROLE postgres SET default_transaction_read_only = on;"
        "ALTER ROLE postgres SET datestyle = 'SQL, DMY';"
        "ALTER ROLE postgres SET timezone = 'Asia/Kolkata';"
        "ALTER ROLE postgres SET client_encoding = 'LATIN1';"
    )
    with connect(conninfo(server)) as connection:
        assert connection.value("SELECT 'ü' FROM pg_sleep(0.05)") == "ü"
        assert connection.value("SHOW search_path") == "pg_catalog, pg_temp"
        assert connection.value("SHOW timezone") == "UTC"
        assert connection.value("SELECT count(*) FROM pg_class") > 0
        assert connection.value("SHOW default_transaction_read_only") == "off"
        name = connection.value("SHOW application_name")
    assert name == "pgkeep"


def test_what_the_user_sets_wins(server: PgServer) -> None:
    settings = {
        "host": str(server.socket_dir),
        "user": "postgres",
        "dbname": "postgres",
        "application_name": "nightly",
        "password": "",
    }
    with connect(settings) as connection:
        assert connection.value("SHOW application_name") == "nightly"


def test_a_promotion_is_seen_before_the_next_checkpoint(server_factory: ServerFactory) -> None:
    server = server_factory()
    server.stop()
    (server.pgdata / "standby.signal").touch()
    server.start()
    with connect(conninfo(server)) as connection:
        facts = connection.server_facts()
        assert (facts.is_in_recovery, facts.timeline, facts.archives) == (True, 1, False)
        server.psql("SELECT pg_promote()")
        server.wait_recovery_end()
        facts = connection.server_facts()
        assert (facts.is_in_recovery, facts.timeline) == (False, 2)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ("host=/nowhere dbname=postgres", "PGHOST"),
        ("host=127.0.0.1 port=1 dbname=postgres", "PGPORT"),
        ("this is no conninfo", "as libpq does"),
    ],
)
def test_an_unreachable_server_is_said_so(settings: str, remedy: str) -> None:
    with pytest.raises(ServerError) as refused:
        connect(settings)
    assert remedy in (refused.value.remedy or "")
    assert refused.value.why


def test_a_malformed_connection_string_does_not_show_its_password() -> None:
    with pytest.raises(ServerError) as refused:
        connect("postgresql://user:se%zzcret@host/db")
    assert "cret" not in str(refused.value)


def test_a_wrong_password_is_said_so(server: PgServer) -> None:
    server.psql("CREATE ROLE secretive LOGIN PASSWORD 'right'")
    hba = server.pgdata / "pg_hba.conf"
    hba.write_text("local all secretive scram-sha-256\n" + hba.read_text())
    server.reload()
    with pytest.raises(ServerError, match="password authentication failed") as refused:
        connect(conninfo(server, user="secretive") + " password=wrong")
    assert "pg_hba.conf" in (refused.value.remedy or "")
    assert "wrong" not in str(refused.value)


def test_a_wrong_name_is_said_so(server: PgServer) -> None:
    with pytest.raises(ServerError, match="nobody_here") as refused:
        connect(conninfo(server, user="nobody_here"))
    assert "PGUSER" in (refused.value.remedy or "")


def test_a_lost_session_is_a_server_error(server: PgServer) -> None:
    with connect(conninfo(server)) as connection:
        pid = connection.value("SELECT pg_backend_pid()")
        server.psql(f"SELECT pg_terminate_backend({pid}, 10000)")
        with pytest.raises(ServerError) as lost:
            connection.value("SELECT 1")
        assert "connection to the PostgreSQL server was lost" in str(lost.value)
        assert "log" in (lost.value.remedy or "")
        with pytest.raises(ServerError, match="was lost"):
            connection.value("SELECT 1")
