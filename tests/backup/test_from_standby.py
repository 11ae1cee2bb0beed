"""A standby is backed up as a primary is, and what only its primary can do is asked of that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgkeep.backup import copy
from pgkeep.backup.run import BackupReport
from pgkeep.errors import ArchivingNotWorking, ServerError, WalConflict
from tests.backup.site import Steered
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.servers import PgServer
from tests.standbys import caught_up, execute, follow, make_standby, promote

pytestmark = pytest.mark.end_to_end
RATE = 3 << 20


@pytest.fixture
def make_site(server_factory: ServerFactory) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(server_factory, **options))
        return sites[-1]

    yield make
    server_factory.close()
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


def assert_restores(site: Site, report: BackupReport, into: str, digest: Any) -> None:
    """What was written is what its manifest says, starts, and has sound indexes and the content."""
    backup = report.head.backup
    restored = site.restore(into, backup=backup)
    verify_backup(site.server.installation, restored.plan.options.into)
    server = site.recovered(restored)
    assert_same_digest(digest, cluster_digest(server))
    if server.installation.has_contrib:
        server.psql("CREATE EXTENSION amcheck")
        server.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
    server.stop()


@pytest.mark.majors(15)
def test_under_load_with_the_primary_at_hand(site: Site) -> None:
    """Full from the primary, incremental from the standby, and the other way round."""
    primary = site.server
    prepare_pgbench(primary)
    standby = make_standby(site.factory, primary)
    full = site.backup()
    with Load(primary, ddl=True, rate=200) as load:
        load.wait_churn_rounds(2)
        first = site.backup(standby, primary=primary.conninfo)
        load.wait_churn_rounds(4)
        second = site.backup()
        third = site.backup(standby, primary=primary.conninfo)
        load.wait_churn_rounds(5)
    assert [one.head.from_standby for one in (full, first, second, third)] == [
        False,
        True,
        False,
        True,
    ]
    parents = [one.head.parent for one in (first, second, third)]
    assert parents == [one.head.backup for one in (full, first, second)]
    assert first.head.added_bytes < full.head.added_bytes / 2
    digest = cluster_digest(primary)
    primary.wait_archived()
    for number, report in enumerate((first, third)):
        assert not report.failed
        assert_restores(site, report, f"back {number}", digest)


@pytest.mark.parametrize("who", ["primary", "standby", "both"])
@pytest.mark.majors(18)
def test_whoever_archives(make_site: Callable[..., Site], who: str) -> None:
    site = make_site()
    primary = site.server
    always = {"archive_mode": "always"} if who != "primary" else {}
    standby = make_standby(site.factory, primary, conf=always)
    if who == "standby":
        primary.configure({"archive_mode": "off"})
        primary.restart()
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i")
    caught_up(standby, primary)
    report = site.backup(standby, primary=primary.conninfo)
    assert report.head.from_standby
    assert_restores(site, report, "back", cluster_digest(primary))


@pytest.mark.majors(18)
def test_nobody_archives(make_site: Callable[..., Site]) -> None:
    site = make_site()
    standby = make_standby(site.factory, site.server)
    site.server.configure({"archive_mode": "off"})
    site.server.restart()
    with pytest.raises(ArchivingNotWorking, match="its primary does not archive either"):
        site.backup(standby, primary=site.server.conninfo)


@pytest.mark.majors(18)
def test_without_a_way_to_the_primary_its_last_segment_is_waited_for(site: Site) -> None:
    primary = site.server
    standby = make_standby(site.factory, primary)
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i")
    caught_up(standby, primary)
    with pytest.raises(ArchivingNotWorking) as caught:
        site.backup(standby, archive_timeout=1.0)
    assert "SELECT pg_switch_wal() on the primary" in str(caught.value)
    assert "PGKEEP_PRIMARY" in str(caught.value)
    assert not any("/manifests" in info.key for info in site.repository.store.list(""))

    # Somebody does what was said, a moment later.
    timer = threading.Timer(1.0, lambda: execute(primary, "SELECT pg_switch_wal()::text"))
    timer.start()
    report = site.backup(standby, archive_timeout=30.0)
    timer.join()
    assert_restores(site, report, "back", cluster_digest(primary))


class Slow(Steered):
    """Does something at a phase of a copy that takes some 8 s, and knows when phases began."""

    def __init__(self, *, at: str, do: Callable[[], object]) -> None:
        super().__init__(at=at, do=do)
        self.began: dict[str, float] = {}

    def phase(self, name: str) -> None:
        self.began.setdefault(name.split()[0], time.monotonic())
        super().phase(name)


def standby_in_a_new_segment(site: Site) -> PgServer:
    """Its next backup begins in a segment that is not full."""
    standby = make_standby(site.factory, site.server)
    site.server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i; CHECKPOINT")
    caught_up(standby, site.server)
    return standby


@pytest.fixture
def often_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often during a copy of seconds as during one of hours."""
    monkeypatch.setattr(copy, "_KEEPALIVE_SECONDS", 0.1)


@pytest.mark.majors(18)
@pytest.mark.usefixtures("often_looked_at")
def test_a_quiet_primary_is_waited_for_during_the_copy(site: Site) -> None:
    """Nothing can have arrived of a segment that is not full, however long the copy takes."""
    standby = standby_in_a_new_segment(site)
    progress = Slow(
        at="to be archived", do=lambda: execute(site.server, "SELECT pg_switch_wal()::text")
    )
    report = site.backup(standby, archive_timeout=4.0, rate_limit=RATE, progress=progress)
    assert progress.began["ending"] - progress.began["copying"] > 5
    assert_restores(site, report, "back", cluster_digest(site.server))


@pytest.mark.majors(18)
@pytest.mark.usefixtures("often_looked_at")
def test_a_full_segment_that_does_not_arrive_ends_the_copy(site: Site) -> None:
    """It costs seconds and not hours, on a standby without a way to its primary, too."""
    standby = standby_in_a_new_segment(site)
    site.server.configure({"archive_command": "true"})
    site.server.reload()

    def fill() -> None:
        execute(site.server, "SELECT pg_switch_wal()::text")
        caught_up(standby, site.server)

    progress = Slow(at="first bytes", do=fill)
    with pytest.raises(ArchivingNotWorking, match="does not arrive"):
        site.backup(standby, archive_timeout=1.0, rate_limit=RATE, progress=progress)
    assert "copying" in progress.began
    assert "ending" not in progress.began


@pytest.mark.majors(18)
def test_behind_another_standby(site: Site) -> None:
    primary = site.server
    first = make_standby(site.factory, primary)
    second = make_standby(site.factory, first)
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i; CHECKPOINT")
    caught_up(second, primary)
    with pytest.raises(ServerError, match="which is a standby, too"):
        site.backup(second, primary=first.conninfo)
    report = site.backup(second, primary=primary.conninfo)
    assert_restores(site, report, "back", cluster_digest(primary))


def test_promoted_meanwhile(site: Site) -> None:
    standby = make_standby(site.factory, site.server)

    with pytest.raises(ServerError, match="was promoted during the backup"):
        backup(site, standby, Steered(at="first bytes", do=lambda: promote(standby)))
    assert site.backup(standby).head.timeline == 2


def test_full_page_writes_off_meanwhile_and_before(site: Site) -> None:
    primary = site.server
    standby = make_standby(site.factory, primary)

    def off() -> None:
        execute(primary, "ALTER SYSTEM SET full_page_writes = off")
        primary.reload()
        execute(primary, "CREATE TABLE t AS SELECT 1 AS a")
        execute(primary, "CHECKPOINT")
        caught_up(standby, primary)

    with pytest.raises(ServerError, match="full_page_writes off") as caught:
        backup(site, standby, Steered(at="first bytes", do=off))
    assert "run CHECKPOINT there" in str(caught.value)
    with pytest.raises(ServerError, match="full_page_writes off"):
        backup(site, standby)
    primary.psql("ALTER SYSTEM RESET full_page_writes")
    primary.reload()
    primary.psql("CREATE TABLE u AS SELECT 1 AS a; CHECKPOINT")
    caught_up(standby, primary)
    assert backup(site, standby).head.from_standby


def test_its_primary_is_replaced_meanwhile(site: Site) -> None:
    """It goes on to a timeline that the backup did not begin on."""
    old = site.server
    new = make_standby(site.factory, old)
    standby = make_standby(site.factory, old)

    def fail_over() -> None:
        old.stop("immediate")
        promote(new)
        follow(standby, new)
        execute(new, "CREATE TABLE t AS SELECT generate_series(1, 1000) i")
        execute(new, "CHECKPOINT")
        caught_up(standby, new)
        execute(standby, "CHECKPOINT")

    with pytest.raises(ServerError, match="followed its primary to timeline 2"):
        site.backup(standby, progress=Steered(at="first bytes", do=fail_over))
    report = site.backup(standby, primary=new.conninfo)
    assert report.head.timeline == 2
    assert_restores(site, report, "back", cluster_digest(new))


@pytest.mark.majors(18)
def test_a_way_that_leads_elsewhere(site: Site, server_factory: ServerFactory) -> None:
    standby = make_standby(site.factory, site.server)
    other = server_factory()
    with pytest.raises(ServerError, match="another cluster"):
        site.backup(standby, primary=other.conninfo)
    with pytest.raises(ServerError, match="The primary cannot be reached"):
        site.backup(standby, primary=f"host={site.root} port=5432")
    site.server.psql("CREATE ROLE weak LOGIN")
    with pytest.raises(ServerError, match=r"GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal"):
        site.backup(standby, primary=f"{site.server.conninfo.replace('postgres', 'weak')}")


@pytest.mark.majors(18)
def test_a_primary_that_goes_away_meanwhile_is_waited_for(site: Site) -> None:
    """The copy is made, and its WAL may come from whoever takes the place."""
    standby = make_standby(site.factory, site.server, conf={"archive_mode": "always"})

    def lose_primary() -> None:
        execute(site.server, "CREATE TABLE t AS SELECT 1 AS a")
        execute(site.server, "CHECKPOINT")
        caught_up(standby, site.server)
        execute(standby, "CHECKPOINT")
        site.server.stop("immediate")

    steered = Steered(at="ending the backup", do=lose_primary)
    with pytest.raises(ArchivingNotWorking):
        site.backup(standby, primary=site.server.conninfo, progress=steered, archive_timeout=1.0)
    assert "so the backup's last WAL segment is waited for" in steered.warnings[0]


@pytest.mark.majors(18)
def test_another_servers_segment_under_the_last_ones_name(site: Site) -> None:
    """The standby's archiver does not even try, so nothing else would tell."""
    from tests.repository.kit import put_wal

    standby = make_standby(site.factory, site.server)
    # A push that is under way would store ahead what comes next.
    site.server.wait_archived()
    site.server.configure({"archive_command": "true"})
    site.server.reload()
    site.server.psql("CREATE TABLE t AS SELECT 1 AS a; CHECKPOINT")
    caught_up(standby, site.server)

    def forge() -> None:
        name = execute(site.server, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        number = int(name[16:], 16)
        repository = site.repository
        for one in range(1, number + 1):
            forged = f"{name[:16]}{one:08X}"
            if not repository.store.exists(site.layout.wal_file(forged)):
                put_wal(repository, forged, bytes(16 << 20), kind="segment", layout=site.layout)

    steered = Steered(at="ending the backup", do=forge)
    with pytest.raises(WalConflict):
        site.backup(standby, primary=site.server.conninfo, progress=steered)


def backup(site: Site, standby: PgServer, progress: Any = None) -> BackupReport:
    more = {"progress": progress} if progress is not None else {}
    return site.backup(standby, primary=site.server.conninfo, **more)
