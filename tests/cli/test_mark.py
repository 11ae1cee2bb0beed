"""A marked moment is one that can be gone back to when the command has returned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.servers import PgServer

NAME = "before the 2nd upgrade"


@pytest.fixture
def server(server_factory: ServerFactory) -> PgServer:
    return server_factory()


@pytest.fixture
def kept(server: PgServer) -> Pgkeep:
    """A sealed repository to which the server archives, with one backup."""
    pgkeep = Pgkeep().of(server)
    pgkeep("init", "--recipient", pgkeep.public)
    pgkeep("setup", "--apply", "--program", str(pgkeep_program()))
    server.restart()
    pgkeep.environ["PGKEEP_CONFIG"] = str(pgkeep.state / "pgkeep.toml")
    server.psql("CREATE TABLE t (i int)")
    pgkeep("backup")
    return pgkeep


def restored(kept: Pgkeep, server: PgServer, *options: str) -> tuple[str, str]:
    """What the table holds after a restore to the mark, and what the command said."""
    into = kept.root / "back"
    done = kept(
        "restore", "--into", into, "--name", NAME, "-v", *options, PGKEEP_IDENTITY=kept.secret
    )
    with PgServer.adopt(server.installation, into) as back:
        back.wait_recovery_end()
        return back.psql("SELECT array_agg(i ORDER BY i) FROM t"), done.stderr


@pytest.mark.end_to_end
def test_one_goes_back_to_it_and_reads_no_more_wal_than_from_the_backup_before_it(
    kept: Pgkeep, server: PgServer
) -> None:
    server.psql("INSERT INTO t VALUES (1)")
    said = kept.json("mark", NAME)
    assert (said["name"], said["timeline"]) == (NAME, 1)
    server.psql("INSERT INTO t VALUES (2)")
    kept("backup")
    later = [server.wait_archived() for _ in range(3)]
    rows, told = restored(kept, server)
    assert rows == "{1}"
    # Behind the next backup nothing can be what is looked for, since the mark tells where it is.
    assert "looked into" in told
    assert not any(f"looked into {segment}" in told for segment in later), told


def test_a_name_is_used_once_since_recovery_stops_at_the_first(kept: Pgkeep) -> None:
    kept("mark", NAME)
    assert "already" in kept("mark", NAME, code=2).stderr
    assert "1 to 63 bytes" in kept("mark", "é" * 32, code=2).stderr


def test_a_restore_to_an_unknown_name_tells_those_that_are_known(kept: Pgkeep) -> None:
    kept("mark", NAME)
    done = kept(
        "restore",
        "--into",
        "/nowhere/x",
        "--name",
        "other",
        "--dry-run",
        code=21,
        PGKEEP_IDENTITY=kept.secret,
    )
    assert f"Remembered restore points: {NAME}." in done.stderr


@pytest.mark.end_to_end
def test_wal_that_does_not_arrive_is_an_error_and_the_mark_counts_when_it_does(
    kept: Pgkeep, server: PgServer
) -> None:
    server.psql("INSERT INTO t VALUES (1)")
    command = server.psql("SHOW archive_command")
    server.psql("ALTER SYSTEM SET archive_command = 'false'")
    server.reload()
    done = kept("mark", NAME, "--archive-timeout", "1s", code=13)
    assert "can be gone back to as soon as" in done.stderr
    escaped = command.replace("'", "''")
    server.psql(f"ALTER SYSTEM SET archive_command = '{escaped}'")
    server.reload()
    server.psql("INSERT INTO t VALUES (2)")
    server.wait_archived()
    assert restored(kept, server)[0] == "{1}"


def test_it_is_remembered_in_every_repository(kept: Pgkeep, server: PgServer) -> None:
    mirror = kept.root / "mirror"
    kept.environ["PGKEEP_MIRROR_SECOND_REPO"] = mirror.as_uri()
    kept("init")
    kept("copy")
    kept("mark", NAME)
    marks = [
        [path.read_text() for path in sorted(Path(root).glob("main/*/marks/*"))]
        for root in (kept.repository, mirror)
    ]
    assert marks[0] == marks[1] != []
    kept.repository.rename(kept.root / "lost")
    assert "already" in kept("mark", NAME, code=2).stderr


def test_a_standby_writes_no_restore_point(kept: Pgkeep, server: PgServer) -> None:
    into = kept.root / "standby"
    kept("restore", "--into", into, "--standby", PGKEEP_IDENTITY=kept.secret)
    with PgServer.adopt(server.installation, into) as standby:
        kept.environ["PGHOST"] = str(standby.socket_dir)
        assert "standby" in kept("mark", NAME, code=10).stderr
