"""``setup`` gives a role just the rights that a backup needs, and overwrites nothing of others'."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgkeep.config import load_settings
from pgkeep.postgres.backup_session import BackupSession
from pgkeep.postgres.connection import connect
from pgkeep.postgres.privileges import missing_privileges
from pgkeep.postgres.quoting import quote_name, quote_text
from pgkeep.setup.archiving import ArchiveSettings, archive_changes
from pgkeep.setup.server import SetupRequest, plan_setup
from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.server_user import server_user
from tests.servers import PgServer
from tests.standbys import make_standby

# What only says something on a standby, or where a library has a version to tell.
MAY_BE_UNKNOWN = {"archive_library", "libc_collation_version", "icu_collation_version"}


@pytest.fixture
def pgkeep(server: PgServer) -> Pgkeep:
    """Commands for a running server, with a repository."""
    commands = Pgkeep().of(server)
    commands("init", "--no-encryption")
    return commands


@pytest.fixture
def program() -> tuple[str, str]:
    return ("--program", str(pgkeep_program()))


def test_printed_sql_gives_a_role_that_can_make_backups_and_nothing_more(
    pgkeep: Pgkeep, server: PgServer, program: tuple[str, str]
) -> None:
    plan = pgkeep.json("setup", *program)
    assert plan["applied"] is False
    assert server.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'pgkeep'") == "0"
    server.psql(";\n".join(plan["sql"]) + ";")
    with connect(f"host={server.socket_dir} port=5432 user=pgkeep dbname=postgres") as connection:
        assert missing_privileges(connection) == ()
        facts = dataclasses.asdict(connection.server_facts())
        unknown = {name for name, value in facts.items() if value is None} - MAY_BE_UNKNOWN
        assert unknown == set()
        with BackupSession(connection) as session:
            session.start("pgkeep test", True)
            session.switch_wal()
            assert session.stop().label_file
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.raw.execute("SELECT * FROM pg_authid")
        assert connection.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'pgkeep'") is False
        assert connection.value("SELECT rolreplication FROM pg_roles WHERE rolname = 'pgkeep'")


def test_applied_setup_archives_and_lets_a_backup_be_made_with_the_written_settings_alone(
    pgkeep: Pgkeep, server: PgServer, program: tuple[str, str]
) -> None:
    done = pgkeep("setup", "--apply", *program)
    assert "restart" in done.stdout
    server.restart()
    config = pgkeep.state / "pgkeep.toml"
    assert config.stat().st_mode & 0o777 == 0o600
    again = pgkeep.json("setup", *program)
    assert (again["steps"], again["needs_restart"]) == ([], False)
    server.wait_archived()
    # Neither our variables nor libpq's: the file says it all, the role included.
    pgkeep("backup", "--config", config, environ={})
    listed = pgkeep.json("list", "--config", config, environ={})
    assert [backup["good"] for backup in listed["backups"]] == [True]


def test_access_lines_come_first_and_are_written_once(
    pgkeep: Pgkeep, server: PgServer, program: tuple[str, str]
) -> None:
    hba = server.pgdata / "pg_hba.conf"
    before = hba.read_text()
    pgkeep("setup", "--apply", *program)
    pgkeep("setup", "--apply", *program)
    after = hba.read_text()
    assert after.endswith(before)
    assert after.count("map=pgkeep") == 2
    rules = server.psql("SELECT user_name[1] FROM pg_hba_file_rules ORDER BY line_number LIMIT 1")
    assert rules == "pgkeep"
    assert f"pgkeep {server_user().name} pgkeep" in (server.pgdata / "pg_ident.conf").read_text()


def test_waiting_restart_is_said_again_and_nothing_is_asked_for_twice(
    pgkeep: Pgkeep, program: tuple[str, str]
) -> None:
    pgkeep("setup", "--apply", *program)
    again = pgkeep.json("setup", *program)
    assert (again["steps"], again["needs_restart"]) == ([], True)


def test_clusters_that_share_a_state_directory_have_settings_files_of_their_own(
    pgkeep: Pgkeep, program: tuple[str, str]
) -> None:
    first = pgkeep.json("setup", *program)["config_file"]
    second = pgkeep.json("setup", "--cluster", "orders", *program)["config_file"]
    assert first != second
    assert "orders" in second


def test_printed_setup_says_how_to_have_it_done(pgkeep: Pgkeep, program: tuple[str, str]) -> None:
    """Also where a restart has to follow, as it does on every new server."""
    printed = pgkeep("setup", *program).stdout
    assert "restart the server" in printed
    assert "pgkeep setup --apply" in printed


def test_foreign_archive_command_is_not_overwritten(
    server_factory: ServerFactory, program: tuple[str, str]
) -> None:
    server = server_factory(conf={"archive_mode": "on", "archive_command": "/bin/true %p"})
    pgkeep = Pgkeep().of(server)
    pgkeep("init", "--no-encryption")
    done = pgkeep("setup", "--apply", *program, code=10)
    assert "/bin/true %p" in done.stderr
    assert "--replace-archive-command" in done.stderr
    assert server.psql("SHOW archive_command") == "/bin/true %p"
    assert server.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'pgkeep'") == "0"
    pgkeep("setup", "--apply", "--replace-archive-command", *program)
    server.wait_for("SELECT current_setting('archive_command') LIKE '%wal-push %p'")


def test_archive_command_that_calls_both_stays(
    server_factory: ServerFactory, program: tuple[str, str]
) -> None:
    """Whoever archives with two programs must not lose one of them by running setup again."""
    server = server_factory(conf={"archive_mode": "on", "archive_command": "/bin/true %p"})
    pgkeep = Pgkeep().of(server)
    pgkeep("init", "--no-encryption")
    ours = pgkeep("setup", *program, code=10).stderr.partition("succeed: ")[2].split("  ")[0]
    assert ours.startswith("/bin/true %p && ")
    for both, code in (
        (ours, 0),
        (ours.replace("&&", ";"), 10),  # the first may fail, and nobody hears of it
        (f"{ours} || true", 10),
    ):
        server.psql(f"ALTER SYSTEM SET archive_command = '{both}'")
        server.reload()
        pgkeep("setup", "--apply", *program, code=code)
        assert server.psql("SHOW archive_command") == both
    # pgkeep with other settings is exchanged in what setup suggests, and not called twice.
    other = f"/usr/bin/pgkeep wal-push %p && {ours.partition(' && ')[0]}"
    server.psql(f"ALTER SYSTEM SET archive_command = '{other}'")
    server.reload()
    said = pgkeep("setup", *program, code=10).stderr
    assert said.partition("succeed: ")[2].split("  ")[0] == ours
    pgkeep("setup", "--apply", "--replace-archive-command", *program)
    server.wait_for("SELECT current_setting('archive_command') NOT LIKE '/bin/true%'")


def test_foreign_archive_command_is_seen_while_archiving_is_off(
    server_factory: ServerFactory, program: tuple[str, str]
) -> None:
    server = server_factory(conf={"archive_command": "/bin/true %p"})
    pgkeep = Pgkeep().of(server)
    done = pgkeep("setup", *program, code=10)
    assert "/bin/true %p" in done.stderr


def test_settings_of_the_users_own_file_are_used_and_no_other_is_written(
    pgkeep: Pgkeep, program: tuple[str, str]
) -> None:
    own = pgkeep.root / "own.toml"
    own.write_text(f'repo = "file://{pgkeep.repository}"\nstate = "{pgkeep.state}"\n')
    own.chmod(0o644)
    environ = {name: text for name, text in pgkeep.environ.items() if name.startswith("PG")}
    environ = {name: text for name, text in environ.items() if not name.startswith("PGKEEP")}
    plan = pgkeep.json("setup", "--config", own, *program, environ=environ)
    assert plan["config_file"] == str(own)
    assert not any(step["title"] == "settings file" for step in plan["steps"])


def test_written_settings_hold_no_secret_and_are_valid(
    pgkeep: Pgkeep, program: tuple[str, str]
) -> None:
    pgkeep("setup", "--apply", *program, PGKEEP_IDENTITY=pgkeep.secret, PGPASSWORD="hunter2")
    path = pgkeep.state / "pgkeep.toml"
    text = path.read_text()
    assert pgkeep.secret not in text
    assert "hunter2" not in text
    settings = load_settings({}, config_file=str(path))
    assert settings.repo == pgkeep.environ["PGKEEP_REPO"]
    assert settings.server["user"] == "pgkeep"


def test_without_a_server_everything_is_printed_and_nothing_can_be_applied(
    server_factory: ServerFactory, program: tuple[str, str]
) -> None:
    pgkeep = Pgkeep().of(server_factory.create())
    done = pgkeep("setup", *program)
    for text in ("CREATE ROLE pgkeep", "pg_backup_start", "archive_command", "map=pgkeep"):
        assert text in done.stdout
    pgkeep("setup", "--apply", *program, code=10)


def test_program_that_the_server_cannot_execute_is_refused(pgkeep: Pgkeep) -> None:
    done = pgkeep("setup", "--program", "/nowhere/pgkeep", code=3)
    assert "/nowhere/pgkeep" in done.stderr


# -- without a server -------------------------------------------------------------------------


def request(**changes: Any) -> SetupRequest:
    given = SetupRequest("pgkeep", ("/usr/bin/pgkeep",), Path("/etc/x.toml"), None, "postgres")
    return dataclasses.replace(given, **changes)


def test_archive_command_survives_the_servers_substitution_and_the_shell() -> None:
    awkward = request(program=("/opt/pg keep/50%/pgkeep",), config_file=Path("/etc/it's.toml"))
    # What PostgreSQL makes of it: %% is a percent sign, %p the path.
    substituted = awkward.archive_command.replace("%p", "pg_wal/0001").replace("%%", "%")
    assert shlex.split(substituted) == [
        *("/opt/pg keep/50%/pgkeep", "--config", "/etc/it's.toml", "wal-push", "pg_wal/0001")
    ]


def test_names_and_texts_are_quoted() -> None:
    assert quote_name("pgkeep") == "pgkeep"
    assert quote_name('a"b') == '"a""b"'
    assert quote_name("Backup") == '"Backup"'
    assert quote_text("it's") == "'it''s'"
    plan = plan_setup(None, request(role='x"; DROP TABLE y'))
    assert 'CREATE ROLE "x""; DROP TABLE y" LOGIN REPLICATION' in plan.steps[0].sql


def test_own_archive_command_of_an_earlier_version_is_replaced() -> None:
    now = ArchiveSettings("replica", "on", "/old/pgkeep wal-push %p", "", 60, archives_now=True)
    assert archive_changes(now, "new") == {"archive_command": "new"}


def test_longer_archive_timeout_of_the_user_is_left_alone() -> None:
    now = ArchiveSettings("replica", "on", "new", "", 300, archives_now=True)
    assert archive_changes(now, "new") == {}


@pytest.mark.majors(18)
def test_a_standby_is_told_what_its_primary_has_to_do(
    server: PgServer, server_factory: ServerFactory, program: tuple[str, str]
) -> None:
    standby = make_standby(server_factory, server)
    pgkeep = Pgkeep().of(standby)
    pgkeep("init", "--no-encryption")
    plan = pgkeep.json("setup", *program)
    assert not [statement for statement in plan["sql"] if "ROLE" in statement]
    notes = " ".join(plan["left"])
    assert "CREATE ROLE pgkeep" in notes
    assert "PGKEEP_PRIMARY" in notes
    assert "GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO pgkeep" in notes

    pgkeep.environ["PGKEEP_PRIMARY"] = standby.conninfo
    assert "which is a standby, too" in " ".join(pgkeep.json("setup", *program)["left"])
    pgkeep.environ["PGKEEP_PRIMARY"] = server.conninfo
    done = pgkeep.json("setup", "--apply", *program)
    assert done["applied"] is True
    assert "which is a standby, too" not in " ".join(done["left"])
    assert "wal-push" in standby.psql("SHOW archive_command") or done["needs_restart"]
