"""Whoever took over and whoever went on: each timeline restores to its own past."""

from __future__ import annotations

import pytest

from pgkeep.errors import AmbiguousTimeline, ArchivingNotWorking, ServerError
from pgkeep.restore import target
from tests.backup.site import Steered
from tests.digest import Digest, assert_same_digest, cluster_digest
from tests.restore.site import Site
from tests.servers import PgServer
from tests.standbys import caught_up, execute, follow, make_standby, promote

pytestmark = pytest.mark.end_to_end


def write(server: PgServer, what: int) -> None:
    server.psql(f"INSERT INTO t SELECT {what} FROM generate_series(1, 1000)")


def assert_restores_to(site: Site, into: str, digest: Digest, **options: object) -> None:
    server = site.recovered(site.restore(into, **options))
    assert_same_digest(digest, cluster_digest(server))
    server.stop()


@pytest.fixture
def old(site: Site) -> PgServer:
    site.server.psql("CREATE TABLE t AS SELECT 0 AS what")
    return site.server


@pytest.mark.majors(18)
def test_a_standby_took_over_while_the_old_primary_went_on(site: Site, old: PgServer) -> None:
    """Segments of the same numbers on two timelines, and a backup on each."""
    new = make_standby(site.factory, old)
    site.backup()
    write(old, 1)
    caught_up(new, old)
    promote(new)
    for _ in range(3):
        write(old, 10)
        old.wait_archived()
        write(new, 20)
        new.wait_archived()
    on_old, on_new = cluster_digest(old), cluster_digest(new)
    names = site.stored_wal()
    assert any(name.endswith(".partial") for name in names)
    assert {name[8:] for name in names if name[:8] == "00000001"} & {
        name[8:] for name in names if name[:8] == "00000002" and len(name) == 24
    }
    with pytest.raises(AmbiguousTimeline, match="1, 2"):
        site.plan()
    assert_restores_to(site, "old from before", on_old, timeline=1)
    assert_restores_to(site, "new from before", on_new, timeline=2)

    # Each goes on from the last backup, whichever server made it.
    first, second = site.backup(new), site.backup(old)
    third = site.backup(new)
    assert [one.head.timeline for one in (first, second, third)] == [2, 1, 2]
    assert [one.head.parent for one in (second, third)] == [
        one.head.backup for one in (first, second)
    ]
    assert_restores_to(site, "old", on_old, timeline=1)
    assert_restores_to(site, "new", on_new, timeline=2)
    # The newest backup is the new one's, and nothing branched off from that.
    assert site.plan().resolution.timeline == 2


@pytest.mark.majors(18)
def test_a_third_server_that_archives_too_does_not_make_the_old_timeline_live(
    site: Site, old: PgServer
) -> None:
    """With archive_mode = always it archives what it had of the old timeline's last segment under
    the full name, when it goes over to the new one."""
    new = make_standby(site.factory, old)
    third = make_standby(site.factory, old, conf={"archive_mode": "always"})
    site.backup()
    write(old, 1)
    caught_up(new, old)
    caught_up(third, old)
    last = str(execute(old, "SELECT pg_walfile_name(pg_current_wal_lsn())"))
    old.stop("immediate")
    promote(new)
    new.wait_for("SELECT last_archived_wal IS NOT NULL FROM pg_stat_archiver")
    follow(third, new)
    write(new, 2)
    caught_up(third, new)
    new.wait_archived()
    third.wait_for(lambda: last in site.stored_wal(), what=f"{last} is stored")
    assert site.plan().resolution.timeline == 2
    assert_restores_to(site, "back", cluster_digest(new))


@pytest.mark.majors(18)
def test_two_standbys_that_were_promoted_to_one_timeline(site: Site, old: PgServer) -> None:
    """Neither asks the repository which timelines there are, so both take the second, and left the
    first at one place: even their history files are the same. Whoever archives first has it."""
    first, other = make_standby(site.factory, old), make_standby(site.factory, old)
    site.backup()
    write(old, 1)
    caught_up(first, old)
    caught_up(other, old)
    old.stop("immediate")
    promote(first)
    for _ in range(4):  # more than the other one writes
        write(first, 2)
        first.wait_archived()
    promote(other)
    write(other, 3)
    with pytest.raises(ArchivingNotWorking, match="archiver failed"):
        site.backup(other, archive_timeout=3.0)
    assert "already in the repository with other content" in other.log_text()
    assert site.backup(first).head.timeline == 2
    assert_restores_to(site, "back", cluster_digest(first))


@pytest.mark.majors(18)
def test_a_backup_is_running_when_the_server_is_lost(site: Site, old: PgServer) -> None:
    new = make_standby(site.factory, old)
    full = site.backup()
    write(old, 1)
    caught_up(new, old)
    steered = Steered(at="ending the backup", do=lambda: old.stop("immediate"))
    with pytest.raises(ServerError, match="lost"):
        site.backup(progress=steered)
    promote(new)
    write(new, 2)
    report = site.backup(new)
    assert (report.head.timeline, report.head.parent) == (2, full.head.backup)
    assert_restores_to(site, "back", cluster_digest(new))


@pytest.mark.majors(18)
def test_back_in_time_from_a_server_that_came_back_in_time(site: Site, old: PgServer) -> None:
    """The third timeline leaves the second before, or after, where that left the first."""
    site.backup()
    states: dict[str, Digest] = {}

    def point(server: PgServer, name: str, what: int) -> None:
        write(server, what)
        server.psql(f"SELECT pg_create_restore_point('{name}')")
        states[name] = cluster_digest(server)
        server.wait_archived()

    point(old, "early", 1)
    point(old, "late", 2)
    old.stop()

    def come_back(into: str, name: str, **options: object) -> PgServer:
        report = site.restore(into, target=target.at_name(name), continue_archiving=True, **options)
        server = site.recovered(report)
        assert_same_digest(states[name], cluster_digest(server))
        return server

    second = come_back("second", "late")
    point(second, "on the second", 20)
    second.stop()
    third = come_back("third", "early", timeline=2)
    point(third, "on the third", 30)
    fourth_backup = site.backup(third)
    third.stop()
    assert fourth_backup.head.timeline == 3
    fourth = come_back("fourth", "on the second", timeline=2)
    point(fourth, "on the fourth", 40)
    fourth.stop()
    # To its end, and to a point on the way that is behind a fork.
    assert_restores_to(site, "on 3", states["on the third"], timeline=3)
    assert_restores_to(site, "on 4", states["on the fourth"], timeline=4)
    at_second = target.at_name("on the second")
    assert_restores_to(site, "on 2", states["on the second"], timeline=2, target=at_second)
