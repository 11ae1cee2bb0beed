"""What was kept of a cluster before it was made anew stays within reach."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cli.kit import Pgkeep
from tests.digest import Digest, assert_same_digest, cluster_digest
from tests.installations import find_installations
from tests.program import pgkeep_program
from tests.server_user import server_user
from tests.servers import PgServer

pytestmark = pytest.mark.end_to_end


@dataclass
class Renewed:
    """A cluster that was backed up, and then made anew by initdb; ``server`` is the new one."""

    pgkeep: Pgkeep
    server: PgServer
    old: str
    digest: Digest


@pytest.fixture(scope="module")
def renewed() -> Iterator[Renewed]:
    found = find_installations()
    if not found:
        pytest.skip("no PostgreSQL was found")
    first, second = (PgServer.create(found[max(found)]) for _ in range(2))
    pgkeep = Pgkeep().of(first.start())
    identity = pgkeep.root / "identity"
    identity.write_text(pgkeep.secret + "\n")
    identity.chmod(0o600)
    pgkeep.environ["PGKEEP_IDENTITY"] = str(server_user().own(identity))
    pgkeep("init", "--recipient", pgkeep.public)
    archive(pgkeep, first)
    pgkeep.environ["PGKEEP_CONFIG"] = str(pgkeep.state / "pgkeep.toml")
    first.psql("CREATE TABLE t AS SELECT 'old' AS what FROM generate_series(1, 1000)")
    pgkeep("backup")
    first.psql("INSERT INTO t VALUES ('after the backup')")
    first.wait_archived()
    digest = cluster_digest(first)
    old = pgkeep.json("list")["system_identifier"]
    first.close()
    pgkeep.of(second.start())
    pgkeep("init", "--new-system")
    yield Renewed(pgkeep, second, old, digest)
    second.close()


def archive(pgkeep: Pgkeep, server: PgServer) -> None:
    pgkeep("setup", "--apply", "--program", str(pgkeep_program()))
    server.restart()


def test_list_names_the_earlier_system_and_shows_it_when_asked(renewed: Renewed) -> None:
    pgkeep, old = renewed.pgkeep, renewed.old
    document, text = pgkeep.json("list"), pgkeep("list").stdout
    assert document["system_identifier"] != old
    (before, now) = document["systems"]
    assert (before["system_identifier"], before["present"], before["backups"]) == (old, False, 1)
    assert (now["present"], now["until"], now["since"]) == (True, None, before["until"])
    assert f"system {old} (until " in text
    assert f"has 1 backup: pgkeep list --system {old}" in text

    earlier = pgkeep.json("list", "--system", old)
    (backup,) = earlier["backups"]
    assert (earlier["system_identifier"], backup["good"]) == (old, True)
    assert earlier["windows"]
    shown = pgkeep("show", "latest", "--system", old).stdout
    assert f"--backup {backup['backup']} --system {old}" in shown
    assert old not in pgkeep("list", "--system", old).stdout.partition("\n")[2]


def test_unknown_and_malformed_systems_are_refused_with_the_known_ones(renewed: Renewed) -> None:
    pgkeep = renewed.pgkeep
    for command in (("list",), ("show", "latest"), ("restore", "--into", "/nonexistent/x")):
        assert renewed.old in pgkeep(*command, "--system", "77", code=63).stderr
        assert renewed.old in pgkeep(*command, "--system", "old", code=2).stderr


def test_restore_without_a_backup_of_the_present_system_names_the_earlier(renewed: Renewed) -> None:
    into = renewed.pgkeep.root / "never"
    done = renewed.pgkeep("restore", "--into", into, "--latest", code=21)
    assert f"pgkeep restore --system {renewed.old}" in done.stderr
    assert not into.exists()


def test_earlier_system_comes_back_with_its_own_wal(renewed: Renewed) -> None:
    """Also when the new system has archived segments of the same names."""
    pgkeep, server = renewed.pgkeep, renewed.server
    archive(pgkeep, server)
    pgkeep("backup")
    for _ in range(3):
        server.psql("CREATE TABLE IF NOT EXISTS t AS SELECT 'new' AS what")
        server.wait_archived()
    new = pgkeep.json("list")["system_identifier"]
    names = [
        {path.name for path in pgkeep.repository.glob(f"**/{number}/wal/*/*")}
        for number in (renewed.old, new)
    ]
    assert names[0] & names[1]
    assert (
        f"The present system {new} has 1 backup" in pgkeep("list", "--system", renewed.old).stdout
    )

    into = pgkeep.root / "back"
    report = pgkeep.json("restore", "--system", renewed.old, "--into", into, "--latest")
    assert report["wal_mode"] == "fetch"
    with PgServer.adopt(server.installation, into) as restored:
        restored.wait_recovery_end()
        assert_same_digest(renewed.digest, cluster_digest(restored))

    # Without --system it is the new one that is restored, as it has a backup now.
    plan = pgkeep.json("restore", "--into", pgkeep.root / "new", "--latest", "--dry-run")
    assert plan["backup"] == pgkeep.json("list")["backups"][0]["backup"]
    shutil.rmtree(into)
