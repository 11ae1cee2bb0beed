"""What would make a backup worthless is refused before the copy, and nothing is listed then."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.errors import (
    ArchivingNotWorking,
    CopyRefused,
    LocalIOError,
    UnknownSystem,
    UnsupportedVersion,
    WrongDataDirectory,
)
from tests.backup.site import Site
from tests.factory import ServerFactory
from tests.server_user import server_user
from tests.servers import PgServer, new_directory


def clone_of_stopped(server: PgServer) -> Path:
    """``cp -a`` of the directory while the server was down for it."""
    target = new_directory() / "clone"
    server.stop()
    subprocess.run(["cp", "-a", server.pgdata, target], check=True)
    server.start()
    return target


def packs(site: Site) -> list[str]:
    return [info.key for info in site.store.list(site.layout.packs)]


def test_a_stale_clone_is_not_the_servers_directory(site: Site) -> None:
    """Same system identifier, same files; only the last checkpoint tells (invariant 9)."""
    clone = clone_of_stopped(site.server)
    site.server.psql("CREATE TABLE later AS SELECT 1 AS a; CHECKPOINT")
    with pytest.raises(WrongDataDirectory) as caught:
        site.backup(pgdata=str(clone))
    assert caught.value.exit_code == 11
    assert "clone" in str(caught.value)
    assert site.manifests() == packs(site) == []
    assert site.backup(pgdata=str(site.server.pgdata)).head.files


@pytest.mark.majors(18)
def test_the_wal_of_another_future_does_not_pass_for_the_servers(site: Site) -> None:
    """A directory is put back, and its WAL gets the names of what is stored already. None of it is
    accepted, so a backup could not be restored (invariant 2)."""
    server = site.server
    aside = clone_of_stopped(server)
    for number in range(4):
        server.psql(f"CREATE TABLE given_up_{number} AS SELECT 1 AS a")
        server.wait_archived()
    server.stop()
    shutil.rmtree(server.pgdata)
    aside.rename(server.pgdata)
    server.start()
    server.psql("CREATE TABLE real AS SELECT 1 AS a")
    with pytest.raises(ArchivingNotWorking, match="archiver failed"):
        site.backup(archive_timeout=3.0)
    assert site.manifests() == []


@pytest.mark.majors(18)
def test_a_clone_of_this_very_moment_is_stale_too(site: Site) -> None:
    clone = clone_of_stopped(site.server)
    with pytest.raises(WrongDataDirectory):
        site.backup(pgdata=str(clone))
    assert site.manifests() == []


@pytest.mark.majors(18)
def test_a_directory_seen_under_another_path_is_fine(site: Site) -> None:
    alias = new_directory() / "alias"
    alias.symlink_to(site.server.pgdata)
    report = site.backup(pgdata=str(alias))
    assert not [path for path in site.read(report.head.backup).files if path.startswith("/")]


@pytest.mark.majors(18)
def test_another_servers_directory_is_refused(site: Site, server_factory: ServerFactory) -> None:
    other = server_factory.create()
    with pytest.raises(WrongDataDirectory, match="is not the data directory of the server"):
        site.backup(pgdata=str(other.pgdata))
    assert site.manifests() == []


@pytest.mark.majors(18)
def test_a_directory_that_is_not_there_is_refused(site: Site) -> None:
    for path in (site.root / "missing", site.root):
        with pytest.raises(WrongDataDirectory) as caught:
            site.backup(pgdata=str(path))
        assert str(path) in str(caught.value)
        assert caught.value.remedy


@pytest.mark.majors(18)
def test_a_restored_copy_is_refused(site: Site) -> None:
    (site.server.pgdata / "pgkeep.copy").write_text("made by restore\n")
    with pytest.raises(CopyRefused):
        site.backup()
    assert site.manifests() == []


@pytest.mark.majors(18)
def test_a_cluster_that_the_repository_does_not_know_is_refused(
    site: Site, server_factory: ServerFactory
) -> None:
    other = server_factory(conf={"archive_mode": "on", "archive_command": "true"})
    with pytest.raises(UnknownSystem) as caught:
        site.backup(other)
    assert caught.value.exit_code == 63
    with pytest.raises(UnknownSystem, match="not known"):
        site.backup(cluster="another")


@pytest.mark.majors(18)
def test_an_unknown_major_version_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgkeep.postgres.facts import ServerFacts

    monkeypatch.setattr(ServerFacts, "major", property(lambda self: 99))
    with pytest.raises(UnsupportedVersion):
        site.backup()
    with pytest.raises(UnsupportedVersion):
        site.backup(force_version="98")


def test_without_archiving_there_is_no_backup(make_site: Callable[..., Site]) -> None:
    secret = "Sesam-42"
    site = make_site(conf={"archive_mode": "off", "archive_command": f"push {secret}"})
    began = time.monotonic()
    with pytest.raises(ArchivingNotWorking) as caught:
        site.backup()
    assert time.monotonic() - began < 5
    assert "archive_mode is off" in str(caught.value)
    assert "archive_mode = on" in str(caught.value)
    assert secret not in str(caught.value)
    assert site.manifests() == packs(site) == []


@pytest.mark.majors(18)
def test_an_empty_archive_command_is_no_archiving(make_site: Callable[..., Site]) -> None:
    site = make_site(conf={"archive_command": ""})
    with pytest.raises(ArchivingNotWorking, match="archive_command is empty"):
        site.backup()


def test_an_archive_command_that_fails_costs_seconds_and_not_hours(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(conf={"archive_command": "false"})
    began = time.monotonic()
    with pytest.raises(ArchivingNotWorking) as caught:
        site.backup(archive_timeout=3.0)
    assert 3.0 <= time.monotonic() - began < 12
    assert caught.value.exit_code == 13
    assert "archiver failed" in str(caught.value)
    assert "archive_command" in str(caught.value.remedy)
    assert not site.manifests()
    assert not site.listed()
    still = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep'"
    site.server.wait_for(lambda: site.server.psql(still) == "0", what="the session has ended")


@pytest.mark.majors(18)
def test_an_archive_in_another_place_is_none(make_site: Callable[..., Site]) -> None:
    site = make_site(conf={"archive_command": "true"})
    with pytest.raises(ArchivingNotWorking) as caught:
        site.backup(archive_timeout=3.0)
    assert "another place" in str(caught.value)
    assert not site.manifests()
    assert not site.listed()


@pytest.mark.majors(18)
def test_archiving_that_breaks_during_the_copy_leaves_no_backup(
    make_site: Callable[..., Site],
) -> None:
    """A backup without its last WAL is none (invariant 2)."""
    from tests.backup.site import Steered

    site = make_site()

    def stop_archiving() -> None:
        site.server.psql("ALTER SYSTEM SET archive_command = 'false'")
        site.server.reload()

    with pytest.raises(ArchivingNotWorking) as caught:
        site.backup(archive_timeout=3.0, progress=Steered(at="first bytes", do=stop_archiving))
    assert "does not arrive" in caught.value.what
    assert packs(site)
    assert site.manifests() == []
    assert site.listed() == []


@pytest.mark.majors(18)
def test_a_tablespace_that_is_not_mounted_here_is_refused(site: Site) -> None:
    """As in a container of our own, which has the data directory only."""
    from tests.backup.site import Steered

    place = new_directory()
    site.server.psql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    site.server.psql("CREATE TABLE far TABLESPACE elsewhere AS SELECT 1 AS a; CHECKPOINT")
    hidden = place.with_name(place.name + "-hidden")
    try:
        with pytest.raises(WrongDataDirectory) as caught:
            site.backup(progress=Steered(at="checking that WAL", do=lambda: place.rename(hidden)))
        assert str(place) in str(caught.value)
    finally:
        hidden.rename(place)
    assert site.manifests() == []
    assert site.backup().head.files


@pytest.mark.majors(18)
@pytest.mark.skipif(not server_user().is_other, reason="only root can become another user")
def test_who_may_not_read_the_directory_is_told_so(site: Site) -> None:
    repository = site.repository()
    os.seteuid(12345)
    try:
        with pytest.raises(LocalIOError) as caught:
            site.backup(repository=repository)
    finally:
        os.seteuid(0)
    assert "owner of the data directory" in str(caught.value.remedy)
