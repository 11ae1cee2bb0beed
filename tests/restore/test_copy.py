"""A restored cluster disturbs nobody until it is told to take the original's place."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pgkeep.errors import DirectoryNotEmpty, RestoreError, UsageError
from pgkeep.progress import Silent
from pgkeep.restore import target
from pgkeep.restore.plan import FetchAccess, RestoreOptions
from pgkeep.restore.run import plan_restore, run_restore
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from tests.program import pgkeep_program
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import run_as_server_user, server_user

pytestmark = pytest.mark.end_to_end
ODD_NAME = "a 'quoted' 100% name"


def prepared(site: Site) -> None:
    site.server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i")
    site.server.psql("ALTER SYSTEM SET synchronous_standby_names = ''")
    site.backup()
    site.server.psql("INSERT INTO t VALUES (0)")
    site.server.wait_archived()


@pytest.mark.parametrize("wal", ["fetch", "copied"])
def test_a_copy_archives_nothing_until_it_is_adopted(site: Site, wal: str) -> None:
    prepared(site)
    report = site.restore(ODD_NAME, wal=wal)
    into = report.plan.options.into
    verify_backup(site.server.installation, into)
    site.server.stop()
    before = site.stored_wal()
    copy = site.recovered(report)
    assert copy.psql("SELECT count(*) FROM t") == "1001"
    copy.psql("SELECT pg_switch_wal()")
    copy.psql("CHECKPOINT")
    assert copy.psql("SHOW archive_mode") == "off"
    assert copy.psql("SHOW max_logical_replication_workers") == "0"
    # What only the recovery needed is gone.
    assert not (into / "pgkeep_wal").exists()
    assert not (into / "pgkeep.restore.toml").exists()

    segment = next(path for path in (into / "pg_wal").iterdir() if len(path.name) == 24)
    refused = run_as_server_user(
        [pgkeep_program(), "--config", site.config, "wal-push", f"pg_wal/{segment.name}"],
        check=False,
        cwd=into,
    )
    assert refused.returncode == 33, refused.stderr
    assert "copy" in refused.stderr
    assert site.stored_wal() == before

    stop, *between, start = report.adopt
    assert stop.endswith(" stop")
    assert start.endswith(" start")
    copy.stop()
    for command in between:
        run_as_server_user(["/bin/sh", "-c", _without_becoming(command)])
    copy.start()
    assert copy.psql("SHOW archive_mode") == "on"
    copy.wait_archived()
    assert len(site.stored_wal()) > len(before)
    assert "recovery_target_timeline" not in (into / "postgresql.auto.conf").read_text()


def test_the_mark_says_where_the_copy_came_from(site: Site) -> None:
    prepared(site)
    report = site.restore()
    mark = json.loads((report.plan.options.into / "pgkeep.copy").read_text())
    assert mark["from"]["repository"] == site.url
    assert mark["from"]["backup"] == report.plan.resolution.backup.id
    assert mark["to_make_it_the_original"] == list(report.adopt)


@pytest.mark.majors(18)
def test_wal_is_copied_where_the_store_denies_what_is_not_there(site: Site) -> None:
    prepared(site)
    fault = Fault(Failure.DENIED, method="head", key="pgkeep/probe/*", times=None)
    store = FaultyStore(site.repository.store, [fault])
    repository = site.repository._replace(store=store)
    options = RestoreOptions(site.root / "back")
    plan = plan_restore(repository, site.layout, options, access=site.access, progress=Silent())
    assert plan.wal_mode == "copied"
    assert "of files that are not there" in plan.wal_mode_reason


@pytest.mark.majors(18)
def test_wal_is_copied_where_the_server_could_not_fetch_it(site: Site) -> None:
    prepared(site)
    access = FetchAccess((str(pgkeep_program()),), {"repo": site.url}, None, "it is a value")
    site.given_access = access
    plan = site.plan()
    assert (plan.wal_mode, plan.wal_mode_reason) == ("copied", "it is a value")
    with pytest.raises(RestoreError, match="cannot be fetched"):
        site.plan(wal="fetch")


@pytest.mark.majors(18)
def test_a_fetch_that_fails_in_the_trial_ends_in_copied_wal(site: Site) -> None:
    """Looking said that it would work, trying says that it does not."""
    prepared(site)
    broken = site.root / "broken"
    broken.write_text("#!/bin/sh\necho not today >&2\nexit 7\n")
    broken.chmod(0o755)
    site.given_access = FetchAccess((str(broken),), {"repo": site.url}, site.identity_file)
    plan = site.plan()
    assert plan.wal_mode == "fetch"
    progress = Silent()
    report = run_restore(site.repository, site.layout, plan, access=site.access, progress=progress)
    assert report.plan.wal_mode == "copied"
    assert "not today" in progress.warnings[0]
    verify_backup(site.server.installation, plan.options.into)
    assert site.recovered(report).psql("SELECT count(*) FROM t") == "1001"


@pytest.mark.majors(18)
def test_one_unreadable_copied_segment_stops_the_server_and_loses_nothing(site: Site) -> None:
    prepared(site)
    report = site.restore(wal="copied")
    into = report.plan.options.into
    last = into / "pgkeep_wal" / report.plan.resolution.end
    last.rename(last.with_suffix(".away"))
    server = site.factory.adopt(into).start(wait=False)
    assert server.wait_exit() != 0
    last.with_suffix(".away").rename(last)
    server.start().wait_recovery_end()
    assert server.psql("SELECT count(*) FROM t") == "1001"


@pytest.mark.majors(18)
def test_a_directory_that_holds_anything_is_left_as_it_is(site: Site) -> None:
    prepared(site)
    into = site.root / "full"
    into.mkdir()
    (into / "precious").write_text("x")
    with pytest.raises(DirectoryNotEmpty) as caught:
        site.plan("full")
    assert caught.value.exit_code == 23
    assert [path.name for path in into.iterdir()] == ["precious"]
    site.restore("done")
    with pytest.raises(DirectoryNotEmpty):
        site.plan("done")


@pytest.mark.majors(18)
def test_files_belong_to_the_servers_user_and_to_nobody_else(site: Site) -> None:
    prepared(site)
    into = site.root / "owned"
    into.mkdir(0o755)
    server_user().own(into)
    report = site.restore("owned")
    user = server_user()
    for path in (into, *into.rglob("*")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (user.uid, user.gid), path
        assert not found.st_mode & 0o077, path
    assert report.plan.owner.uid == user.uid
    assert (into / "pg_wal" / "archive_status").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.majors(18)
def test_root_refuses_to_make_a_cluster_of_its_own(site: Site) -> None:
    prepared(site)
    with pytest.raises(UsageError, match="no user"):
        site.plan(owner="nobody-of-that-name")
    assert site.plan(owner="nobody").owner.name == "nobody"


def test_tablespaces_go_beside_the_copy_never_where_the_original_lives(site: Site) -> None:
    live = site.root / "live space"
    live.mkdir(0o700)
    server_user().own(live)
    site.server.psql(f"CREATE TABLESPACE fast LOCATION '{live}'")
    site.server.psql("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 5000) i")
    site.backup()
    site.server.psql("INSERT INTO f VALUES (0)")
    site.server.wait_archived()
    oid = site.server.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'")
    site.server.stop()
    before = {path: path.read_bytes() for path in live.rglob("*") if path.is_file()}

    report = site.restore(ODD_NAME)
    into = report.plan.options.into
    verify_backup(site.server.installation, into)
    copy = site.recovered(report)
    assert copy.psql("SELECT count(*) FROM f") == "5001"
    beside = Path(f"{into}.tablespaces", oid)
    assert copy.psql(f"SELECT pg_tablespace_location({oid})") == str(beside)
    copy.psql("UPDATE f SET i = i + 1")
    copy.stop()
    assert {path: path.read_bytes() for path in live.rglob("*") if path.is_file()} == before

    told = site.root / "told"
    elsewhere = site.restore("second", tablespaces={"fast": str(told)})
    assert elsewhere.plan.tablespaces[0].location == told
    assert any(told.rglob("*"))
    with pytest.raises(UsageError, match="no tablespace"):
        site.plan("third", tablespaces={"slow": "/x"})


def test_a_tablespace_made_after_the_backup_is_not_recovered_into_the_living_one(
    site: Site,
) -> None:
    """Replay would make it where the original has it, and write there."""
    prepared(site)
    live = site.root / "later"
    live.mkdir(0o700)
    server_user().own(live)
    site.server.psql(f"CREATE TABLESPACE later LOCATION '{live}'")
    site.server.psql("CREATE TABLE l TABLESPACE later AS SELECT 1 AS a")
    site.server.wait_archived()
    with pytest.raises(RestoreError, match="exists on this machine") as caught:
        site.plan()
    assert str(live) in caught.value.what
    site.plan(target=target.immediate())
    site.backup()
    site.plan()


@pytest.mark.majors(15)
def test_a_cluster_with_its_configuration_elsewhere_starts_from_the_directory_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian has it; the original's place is gone."""
    server = site.server
    server.stop()
    etc = site.root / "etc"
    (etc / "conf.d").mkdir(parents=True)
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.move(server.pgdata / name, etc / name)
    with open(etc / "postgresql.conf", "a") as file:
        file.write(
            f"data_directory = '{server.pgdata}'\nhba_file = '{etc}/pg_hba.conf'\n"
            f"ident_file = '{etc}/pg_ident.conf'\ninclude_dir = 'conf.d'\n"
            f"external_pid_file = '{site.root}/pid'\n"
        )
    (etc / "conf.d" / "a.conf").write_text("work_mem = '7MB'\n")
    for path in (etc, *etc.rglob("*")):
        server_user().own(path)
    listening = server._listening()
    place = f"config_file={etc}/postgresql.conf"
    # A limit that stands on the command line only must be raised in the copy.
    more = ("-c", place, "-c", "max_connections=77")
    monkeypatch.setattr(server, "_listening", lambda: (*listening, *more))
    server.start()
    prepared(site)
    server.stop()

    report = site.restore()
    into = report.plan.options.into
    shutil.rmtree(etc)
    verify_backup(server.installation, into)
    copy = site.recovered(report)
    assert copy.psql("SELECT count(*) FROM t") == "1001"
    assert copy.psql("SHOW work_mem") == "7MB"
    assert copy.psql("SHOW max_connections") == "77"
    assert copy.psql("SHOW data_directory") == str(into)
    assert copy.psql("SHOW hba_file") == f"{into}/pg_hba.conf"
    assert list((into / "pgkeep.config").rglob("a.conf"))


def _without_becoming(command: str) -> str:
    """The part of a printed command that runs as the owner, who we are already."""
    return command.partition(" -- ")[2] or command
