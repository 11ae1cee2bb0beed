"""A backup of a real server holds what the server's data directory holds, and says so."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.postgres.control import parse_control_file
from pgkeep.postgres.label import parse_backup_label, parse_tablespace_map
from pgkeep.postgres.lsn import Lsn
from pgkeep.repository.catalogue import is_good, read_inventory
from tests.backup.format_reader import ReadBackup
from tests.backup.site import Site
from tests.load import prepare_pgbench
from tests.server_user import server_user
from tests.servers import PgServer, new_directory

MADE = {"backup_label", "tablespace_map", "global/pg_control"}


def furnish(server: PgServer) -> None:
    """Tables of every kind, large values, indexes."""
    prepare_pgbench(server)
    server.psql(
        """CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 500) AS text
             FROM generate_series(1, 200) i;
           CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 1000) i;
           CREATE TABLE empty (a int);
           CREATE DATABASE other"""
    )
    server.psql("CREATE TABLE there AS SELECT 1 AS a", dbname="other")
    server.psql("CHECKPOINT")


def compare(server: PgServer, backup: ReadBackup) -> None:
    """Every file of a server that has been quiet since is there, byte for byte."""
    assert len(backup.files) > 900
    for path in backup.files.keys() - MADE:
        on_disk = Path(path) if path.startswith("/") else server.pgdata / path
        assert backup.content(path) == on_disk.read_bytes(), path


@pytest.mark.parametrize("sealing", ["age", "none"])
def test_every_file_of_a_quiet_server_is_there(
    make_site: Callable[..., Site], sealing: str
) -> None:
    site = make_site(sealing=sealing)
    furnish(site.server)
    report = site.backup(note="before the move")
    backup = site.read(report.head.backup)
    compare(site.server, backup)
    backup.check_everything()
    head = backup.head
    assert head["files"] == len(backup.files)
    assert head["database_bytes"] == sum(file.size for file in backup.files.values())
    assert head["stored_bytes"] == sum(len(pack.data) for pack in backup.packs())
    assert (head["failed_pages"], head["note"], head["kind"]) == (0, "before the move", "full")
    assert report.failed == ()


def test_what_is_listed_is_good(site: Site) -> None:
    report = site.backup()
    (backup,) = site.listed()
    assert backup.copies == (True, True)
    inventory = read_inventory(site.repository(), site.layout, report.head.wal_segment_size)
    assert is_good(backup, inventory)
    site.check_restorable(backup)


def test_label_and_control_file_are_those_of_this_backup(site: Site) -> None:
    report = site.backup()
    backup = site.read(report.head.backup)
    label = parse_backup_label(backup.content("backup_label"))
    assert str(label.start_lsn) == report.head.start_lsn
    assert label.label == f"pgkeep {report.head.attempt}"
    control = parse_control_file(backup.content("global/pg_control"))
    assert str(control.system_identifier) == report.head.system_identifier
    assert control.checkpoint_copy.redo == label.start_lsn
    assert "tablespace_map" not in backup.files


def test_it_holds_the_files_that_pg_basebackup_copies(site: Site) -> None:
    server = site.server
    furnish(server)
    place = new_directory()
    server.psql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    server.psql("CREATE TABLE far TABLESPACE elsewhere AS SELECT i FROM generate_series(1, 999) i")
    for name in ("base/pgsql_tmp/pgsql_tmp1.2", "base/5/t3_16999", "log/server.log", "notes"):
        path = server.pgdata / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        server_user().own(path)
        server_user().own(path.parent)
    with server.connect() as session:
        session.execute("CREATE TEMP TABLE passing AS SELECT i FROM generate_series(1, 999) i")
        backup = site.read(site.backup().head.backup)
        target, spaces = new_directory() / "copy", new_directory() / "space"
        server.run(
            *("pg_basebackup", "-D", target, "-X", "none", "-c", "fast", "--no-manifest"),
            *("-T", f"{place}={spaces}"),
        )
    expected = set()
    for folder, _, names in os.walk(target, followlinks=True):
        expected |= {os.path.relpath(f"{folder}/{name}", target) for name in names}
    ours = {path for path in backup.files if not path.startswith("/")} - {"tablespace_map"}
    assert ours == expected
    excluded = ("pgsql_tmp", "t3_16999", "pg_internal.init", "postmaster.pid", "postmaster.opts")
    assert not [path for path in ours if any(part in path for part in excluded)]
    assert "log/server.log" in ours


def test_unlogged_tables_come_empty(site: Site) -> None:
    furnish(site.server)
    path = site.server.psql("SELECT pg_relation_filepath('unlogged')")
    assert (site.server.pgdata / path).stat().st_size > 0
    files = site.read(site.backup().head.backup).files
    assert path not in files
    assert f"{path}_init" in files


def test_tablespaces_are_links_with_their_files(make_site: Callable[..., Site]) -> None:
    site = make_site(conf={"allow_in_place_tablespaces": "on"})
    place = new_directory()
    site.server.psql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    site.server.psql("CREATE TABLESPACE inplace LOCATION ''")
    for space in ("elsewhere", "inplace"):
        site.server.psql(f"CREATE TABLE t_{space} TABLESPACE {space} AS SELECT 1 AS a")
    oids = dict(
        row.split("|")
        for row in site.server.psql("SELECT spcname, oid FROM pg_tablespace").splitlines()
    )
    site.server.psql("CHECKPOINT")
    backup = site.read(site.backup().head.backup)
    compare(site.server, backup)
    assert backup.links == {f"pg_tblspc/{oids['elsewhere']}": str(place)}
    assert f"pg_tblspc/{oids['inplace']}" in backup.directories
    for space in ("elsewhere", "inplace"):
        assert site.server.psql(f"SELECT pg_relation_filepath('t_{space}')") in backup.files
    links = parse_tablespace_map(backup.content("tablespace_map"))
    assert (int(oids["elsewhere"]), str(place)) in [(link.oid, link.location) for link in links]


def test_pg_wal_and_configuration_may_lie_elsewhere(make_site: Callable[..., Site]) -> None:
    site = make_site()
    server = site.server
    server.stop()
    outside = new_directory()
    (server.pgdata / "pg_wal").rename(outside / "wal")
    (server.pgdata / "pg_wal").symlink_to(outside / "wal")
    (server.pgdata / "pg_hba.conf").rename(outside / "pg_hba.conf")
    for name in ("extra.conf", "conf.d/10.conf"):
        path = outside / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("# nothing\n")
        path.parent.chmod(0o755)
    server.configure({"hba_file": str(outside / "pg_hba.conf")})
    with open(server.pgdata / "postgresql.conf", "a") as file:
        file.write(f"include '{outside}/extra.conf'\ninclude_dir '{outside}/conf.d'\n")
    server.start()
    backup = site.read(site.backup().head.backup)
    compare(server, backup)
    absolute = {path: file.row["area"] for path, file in backup.files.items() if path[0] == "/"}
    names = ("pg_hba.conf", "extra.conf", "conf.d/10.conf")
    assert absolute == {str(outside / name): 1 for name in names}
    assert "pg_wal" in backup.directories
    assert not [path for path in backup.files if path.startswith("pg_wal/")]


@pytest.mark.majors(18)
def test_odd_names_come_back_and_what_is_no_file_is_reported(site: Site) -> None:
    pgdata = site.server.pgdata
    odd = [os.fsdecode(name) for name in (b"a b", b"\\x41\\", b"latin-\xe9", b"new\nline")]
    for name in odd:
        (pgdata / name).write_text(repr(name))
    os.mkfifo(pgdata / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(pgdata / "s"))
    report = site.backup()
    assert report.left_out == ("pipe", "s")
    backup = site.read(report.head.backup)
    assert {name: backup.content(name).decode() for name in odd} == {n: repr(n) for n in odd}


@pytest.mark.majors(18)
def test_modes_are_kept_and_group_access_covers_what_is_made(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    pgdata = site.server.pgdata
    site.server.stop()
    for path in (pgdata, *pgdata.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    site.server.start()
    backup = site.read(site.backup().head.backup)
    modes = {path: file.row["mode"] for path, file in backup.files.items()}
    assert {modes[path] for path in ("backup_label", "global/pg_control", "PG_VERSION")} == {0o640}
    assert backup.directories["base"] == 0o750


@pytest.mark.majors(18)
def test_a_host_without_the_metadata_key_makes_a_full_backup(site: Site) -> None:
    from pgkeep.progress import Silent

    progress = Silent()
    repository = site.repository(unlocked=False)
    assert not repository.keyring.can_read_metadata
    report = site.backup(repository=repository, progress=progress)
    assert "full backups only" in progress.warnings[0]
    backup = site.read(report.head.backup)
    backup.check_everything()
    assert backup.facts["hash"]["kind"] == 2


@pytest.mark.majors(18)
def test_a_repository_with_a_passphrase_holds_backups_too(make_site: Callable[..., Site]) -> None:
    site = make_site(sealing="passphrase")
    report = site.backup()
    compare(site.server, site.read(report.head.backup))


@pytest.mark.majors(18)
def test_boot_facts_tell_when_reading_began_by_the_file_systems_clock(site: Site) -> None:
    backup = site.read(site.backup().head.backup)
    boot = backup.facts["boot"]
    written = (site.server.pgdata / "global/pg_control").stat().st_mtime_ns // 1000
    assert boot["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert written - 30_000_000 < boot["start_us"] <= written


@pytest.mark.majors(18)
def test_a_backup_of_a_standby_needs_no_wal_after_its_stop(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_control tells how far replay has to go: it is read before the stop, and not after."""
    from pgkeep.postgres.backup_session import BackupSession, StoppedBackup

    site = make_site(conf={"archive_timeout": 1})
    primary = site.server
    pgdata = new_directory() / "data"
    primary.run("pg_basebackup", "-D", pgdata, "-R", "-X", "stream", "-c", "fast")
    standby = PgServer.adopt(primary.installation, pgdata)
    standby.configure({"archive_mode": "always"})
    stop = BackupSession.stop

    def write() -> str:
        primary.psql("CREATE TABLE IF NOT EXISTS w (t text); INSERT INTO w VALUES ('x')")
        primary.psql("CHECKPOINT; SELECT pg_switch_wal()")
        return primary.psql("SELECT pg_current_wal_lsn()")

    def replayed_and_flushed(lsn: str) -> None:
        standby.wait_for(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")
        standby.psql("CHECKPOINT")

    def stop_and_go_on(self: BackupSession) -> StoppedBackup:
        stopped = stop(self)
        replayed_and_flushed(write())
        return stopped

    monkeypatch.setattr(BackupSession, "stop", stop_and_go_on)
    with standby:
        replayed_and_flushed(write())
        report = site.backup(standby)
    control = parse_control_file(site.read(report.head.backup).content("global/pg_control"))
    assert report.head.from_standby
    assert 0 < control.min_recovery_point <= Lsn.parse(report.head.stop_lsn)
    site.check_restorable(site.listed()[-1])


@pytest.mark.majors(18)
def test_commands_and_passwords_are_no_facts(make_site: Callable[..., Site]) -> None:
    secret = "Sesam-42"
    site = make_site(
        conf={
            "restore_command": f"fetch --password {secret}",
            "primary_conninfo": f"host=nowhere password={secret}",
            "archive_cleanup_command": f"clean {secret}",
        }
    )
    site.server.psql(f"ALTER SYSTEM SET archive_command = 'X={secret} {site.archive_command}'")
    site.server.reload()
    backup = site.read(site.backup().head.backup)
    assert secret not in json.dumps(backup.facts) + json.dumps(backup.head)
    assert secret.encode() in backup.content("postgresql.auto.conf")  # sealed with all data
    assert backup.facts["server"]["wal_level"] == "replica"
