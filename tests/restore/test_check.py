"""``restore --check`` starts what was restored, finds what is wrong, and leaves no trace."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgkeep.errors import CheckFailed, RestoreError, UsageError
from pgkeep.postgres.datadir import postmaster_running
from pgkeep.postgres.standby import Standby
from pgkeep.progress import Silent
from pgkeep.restore import trial
from pgkeep.restore.checking import (
    CheckReport,
    check_restored,
    failure_of,
    missed_pages,
    refuse_check,
)
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.run import RestoreReport
from tests.restore.site import Site


@pytest.fixture(autouse=True)
def programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the installation under test are found."""
    if "pg_installation" in request.fixturenames:
        bin_dir = request.getfixturevalue("pg_installation").bin_dir
        monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")


def check(report: RestoreReport) -> CheckReport:
    return check_restored(report.plan, report.server_facts, progress=Silent())


def left_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("pgkeep-check-*"))


@pytest.fixture
def shop(make_site: Callable[..., Site]) -> Site:
    """Without checksums, so that damage gets past the server; nobody may log in."""
    site = make_site(checksums=False)
    server = site.server
    server.psql("CREATE DATABASE shop")
    server.psql("CREATE ROLE boss SUPERUSER")
    server.psql(
        "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 20000) i; "
        "CREATE INDEX t_m ON t (m); CREATE TABLE still AS SELECT 1 a; CREATE INDEX s ON still (a)",
        "shop",
    )
    server.psql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 's'::regclass", "shop")
    (server.pgdata / "pg_hba.conf").write_text("local all all reject\n")
    site.backup()
    server.psql("DELETE FROM t WHERE i = 1", "shop")
    server.wait_archived()
    server.stop()
    return site


@pytest.mark.end_to_end
def test_a_sound_copy_passes_and_is_stopped_again(shop: Site) -> None:
    before = left_folders()
    report = shop.restore(check="quick")
    into = report.plan.options.into
    settings = (into / "postgresql.auto.conf").read_bytes()
    checked = check(report)
    assert checked.problems == ()
    assert (checked.paused, checked.timeline) == (False, 2)
    assert checked.last_commit is not None
    assert checked.replayed_bytes > 0
    looks = {look.database: look for look in checked.looks}
    assert set(looks) == {"postgres", "shop", "template1"}
    assert looks["shop"].invalid_indexes == ("public.s",)
    assert (looks["shop"].amcheck is not None) is (shop.server.installation.major == 15)
    assert left_folders() == before
    assert postmaster_running(into) is None
    assert not (into / trial.CHECK_LOG).exists()
    assert not (into / "postmaster.opts").exists()  # pg_ctl restart starts as it says
    assert list((into / "pg_wal/archive_status").glob("*.ready")) == []
    assert (into / "postgresql.auto.conf").read_bytes() == settings
    (into / "pg_hba.conf").write_text("local all all trust\n")
    server = shop.factory.adopt(into).start()
    assert server.psql("SELECT count(*) FROM t", "shop") == "19999"
    assert server.psql("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'", "shop") == "0"
    assert server.psql("SELECT count(*) FROM pg_namespace WHERE nspname ~ 'pgkeep'", "shop") == "0"


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_where_recovery_waits_it_waits_again_at_the_next_start(shop: Site) -> None:
    report = shop.restore(check="quick", action="pause", wal="copied")
    checked = check(report)
    assert checked.problems == ()
    assert (checked.paused, checked.timeline) == (True, 1)
    into = report.plan.options.into
    assert (into / "recovery.signal").exists()
    (into / "pg_hba.conf").write_text("local all all trust\n")
    server = shop.factory.adopt(into).start()
    server.wait_for("SELECT pg_get_wal_replay_pause_state() = 'paused'")
    assert server.psql("SELECT count(*) FROM t", "shop") == "19999"


def relation(report: RestoreReport, name: str, site: Site) -> Path:
    """The file of a table of shop; its number is in the original."""
    (site.server.pgdata / "pg_hba.conf").write_text("local all all trust\n")
    with site.factory.adopt(site.server.pgdata) as original:
        path = original.psql(f"SELECT pg_relation_filepath('{name}')", "shop")
    return report.plan.options.into / path


@pytest.mark.end_to_end
@pytest.mark.majors(15)
def test_missing_files_damaged_tables_and_a_wrong_order_are_found(shop: Site) -> None:
    report = shop.restore(check="full", wal="copied")
    relation(report, "still", shop).unlink()
    with open(relation(report, "t", shop), "r+b") as file:
        file.seek(8192 + 24)  # the first line pointers of a page
        file.write(b"\x55" * 16)
    checked = check(report)
    said = " · ".join(checked.problems)
    assert "shop: the file of public.still is missing" in said
    assert "shop: public.t: line pointer" in said
    failure = failure_of(checked, report.plan.options.into)
    assert failure is not None
    assert failure.exit_code == 25
    assert (report.plan.options.into / trial.CHECK_LOG).exists()
    assert postmaster_running(report.plan.options.into) is None


@pytest.mark.end_to_end
@pytest.mark.majors(15)
def test_indexes_in_the_order_of_another_library_are_named(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.server.psql("CREATE DATABASE words TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'")
    site.server.psql(
        'CREATE TABLE w (a text, b text COLLATE "sv-x-icu", c text COLLATE "C"); '
        "CREATE INDEX by_a ON w (a); CREATE INDEX by_b ON w (b); CREATE INDEX by_c ON w (c)",
        "words",
    )
    site.server.psql(
        "UPDATE pg_collation SET collversion = '1.1' WHERE collname = 'sv-x-icu'", "words"
    )
    site.backup()
    (look,) = [
        look for look in check(site.restore(check="quick")).looks if look.database == "words"
    ]
    assert (look.collations, look.reindex) == (('"sv-x-icu"',), ("public.by_b",))
    site.server.psql("UPDATE pg_database SET datcollversion = '1.1' WHERE datname = 'words'")
    site.backup()
    report = site.restore("again", check="quick")
    (look,) = [look for look in check(report).looks if look.database == "words"]
    assert look.collations == ("default", '"sv-x-icu"')
    assert {"public.by_a", "public.by_b"} <= set(look.reindex)
    assert "public.by_c" not in look.reindex


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_a_server_that_does_not_recover_is_quoted(shop: Site) -> None:
    report = shop.restore(check="quick", wal="copied")
    into = report.plan.options.into
    wal = sorted((into / "pgkeep_wal").glob("0000*"))
    os.truncate(wal[0], 8192)
    with pytest.raises(CheckFailed, match="did not come through recovery") as caught:
        check(report)
    assert "FATAL" in str(caught.value)
    assert (into / trial.CHECK_LOG).exists()


def test_pages_that_recovery_missed_matter_in_databases_that_were_restored(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "WARNING:  page 7 of relation base/100/2619 is uninitialized\n"
        "WARNING:  page 3 of relation base/101/16400_vm does not exist\n"
        "WARNING:  page 4 of relation pg_tblspc/9/PG_15_1/102/16401 is uninitialized\n"
        "WARNING:  WAL contains references to invalid pages\n"
        "WARNING:  page 1 of relation global/1262 does not exist\n"
    )
    missed = missed_pages(log.read_text().splitlines(), frozenset({100, 102}))
    assert [text.split()[6] for text in missed] == ["base/101/16400_vm", "global/1262"]


def test_what_would_write_wal_that_nobody_archives_is_not_checked(tmp_path: Path) -> None:
    refuse_check(RestoreOptions(tmp_path, check="quick"))
    options: list[dict[str, Any]] = [
        {"standby": Standby()},
        {"continue_archiving": True},
        {"action": "shutdown"},
    ]
    for changes in options:
        with pytest.raises(UsageError):
            refuse_check(replace(RestoreOptions(tmp_path, check="quick"), **changes))
        refuse_check(replace(RestoreOptions(tmp_path), **changes))
    with pytest.raises(RestoreError, match="no PostgreSQL 99 was found"):
        refuse_check(RestoreOptions(tmp_path, check="quick"), 99)


def test_libraries_that_run_jobs_are_not_loaded() -> None:
    loaded = ["pg_stat_statements", "$libdir/pg_cron", "timescaledb"]
    assert trial.acting_libraries(loaded) == ["$libdir/pg_cron", "timescaledb"]
