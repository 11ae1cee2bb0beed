"""A standby that was restored follows the archive, its primary, or both, until it is promoted."""

from __future__ import annotations

import pytest

from pgkeep.postgres.standby import Standby
from pgkeep.progress import Silent
from pgkeep.restore.plan import FetchAccess
from pgkeep.restore.run import run_restore
from tests.program import pgkeep_program
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.servers import PgServer


def prepared(site: Site) -> None:
    site.server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i")
    site.backup()
    site.server.psql("INSERT INTO t VALUES (0)")
    site.server.wait_archived()


def standby_of(site: Site, into: str = "back", **options: str) -> PgServer:
    report = site.restore(into, standby=Standby(**options))
    verify_backup(site.server.installation, report.plan.options.into)
    assert report.adopt == ()
    return site.factory.adopt(report.plan.options.into).start()


@pytest.mark.end_to_end
def test_it_lives_from_the_archive_alone_and_from_a_store_that_comes_and_goes(site: Site) -> None:
    prepared(site)
    standby = standby_of(site)
    into = standby.pgdata
    standby.wait_for("SELECT count(*) = 1001 FROM t")

    away = site.repository_path.with_name("away")
    before = len(standby.log_text())
    site.repository_path.rename(away)
    standby.wait_for(lambda: "wal-fetch: " in standby.log_text()[before:], what="it is refused WAL")
    assert standby.running
    away.rename(site.repository_path)
    site.server.psql("INSERT INTO t VALUES (-1)")
    site.server.wait_archived()
    standby.wait_for("SELECT count(*) = 1002 FROM t")
    assert standby.psql("SELECT pg_is_in_recovery()") == "t"

    # The primary is lost: the standby takes its place, and archives as it did.
    site.server.wait_archived()
    site.server.stop()
    standby.psql("SELECT pg_promote()")
    standby.wait_recovery_end()
    standby.psql("INSERT INTO t VALUES (-2)")
    last = standby.wait_archived()
    assert last.startswith("00000002")
    assert {last, "00000002.history"} <= set(site.stored_wal())
    assert not (into / "pgkeep.copy").exists()
    assert not (into / "pgkeep.restore.toml").exists()
    assert site.backup(standby).head.timeline == 2


@pytest.mark.end_to_end
def test_it_streams_from_its_primary_and_holds_its_slot(site: Site) -> None:
    prepared(site)
    site.server.psql("SELECT pg_create_physical_replication_slot('standby_1', true)")
    primary = f"{site.server.conninfo} application_name=standby_1"
    standby = standby_of(site, primary=primary, slot="standby_1")
    site.server.wait_for(
        "SELECT state = 'streaming' FROM pg_stat_replication WHERE application_name = 'standby_1'"
    )
    site.server.psql("INSERT INTO t VALUES (-1)")
    standby.wait_for("SELECT count(*) = 1002 FROM t")
    assert site.server.psql("SELECT active FROM pg_replication_slots") == "t"


@pytest.mark.majors(18)
def test_copied_wal_alone_makes_no_standby_and_that_is_said(site: Site) -> None:
    prepared(site)
    program = (str(pgkeep_program()),)
    site.given_access = FetchAccess(program, {"repo": site.url}, None, "it is a value")
    (warning,) = site.plan(standby=Standby()).warnings
    assert "stands still where the copied WAL ends (it is a value)" in warning

    plan = site.plan(standby=Standby(primary=site.server.conninfo))
    assert "before that removes the WAL" in plan.warnings[0]
    run_restore(site.repository, site.layout, plan, access=site.access, progress=Silent())
    standby = site.factory.adopt(plan.options.into).start()
    site.server.psql("INSERT INTO t VALUES (-1)")
    standby.wait_for("SELECT count(*) = 1002 FROM t")


@pytest.mark.parametrize(
    ("primary", "slot", "said"),
    [
        ("host=db1 password=x", "", "a password does not belong on a command line"),
        ("host=", "a slot", "cannot be the name of a slot"),
        ("no connection string", "", "is not a connection string"),
        ("", "alone", "without a primary"),
    ],
)
def test_what_postgresql_would_not_take_is_refused(primary: str, slot: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Standby(primary, slot)
