"""The story on a store that is cut off again and again, and on one that is away for a while.

Commands only: archiving under load, two backups, and a restore that fetches its WAL. What comes
back must equal what was, and nothing but time may be lost.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep.seal import age
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import parse_object_url
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.object_stores import object_service
from tests.server_user import server_user
from tests.servers import PgServer, new_directory
from tests.test_story import Site, judge_by_postgresql
from tests.toxiproxy import DOWN, UP, Cutter, Disturber, behind

pytestmark = [pytest.mark.timeout(400), pytest.mark.end_to_end]

_AWAY_SECONDS = 20
_RATE_KIB = 6000  # slow enough that what happens in the middle happens in the middle


@pytest.fixture
def cut_site(
    request: pytest.FixtureRequest, server_factory: ServerFactory, pgkeep_program: Path
) -> Iterator[tuple[Site, Cutter, ObjectStore]]:
    """A site whose store lies behind a proxy, the proxy, and the store without it."""
    service, cutter = behind(request, "minio")
    url = f"s3://{service.new_place().bucket}/team"
    server = server_factory()
    folder = new_directory("s")
    secret, public = age.generate_identity()
    identity = folder / "identity.txt"
    identity.write_text(secret + "\n")
    identity.chmod(0o600)
    server_user().own(identity)
    environment = {
        **server.env,
        **service.environ,
        "PGKEEP_REPO": url,
        "PGKEEP_STATE": str(folder / "state"),
        "PGKEEP_IDENTITY": str(identity),
    }
    site = Site(server, pgkeep_program, folder, environment)
    site.pgkeep("init", "--recipient", public)
    site.pgkeep("setup", "--apply")
    server.restart()
    direct = ObjectStore(parse_object_url(url), object_service(request, "minio").options)
    yield site, cutter, direct
    cutter.remove()
    shutil.rmtree(folder, ignore_errors=True)


def _fill(server: PgServer) -> None:
    """About 60 MB that do not shrink, so that there is something to cut."""
    prepare_pgbench(server, scale=2)
    server.psql(
        "CREATE TABLE noise AS SELECT i, (SELECT string_agg(md5(random()::text || i || j), '')"
        " FROM generate_series(1, 60) j) AS noise FROM generate_series(1, 45000) i"
    )


def _slow(cutter: Cutter) -> None:
    for way in (UP, DOWN):
        cutter.add("bandwidth", way, rate=_RATE_KIB)


@pytest.mark.majors(18)
def test_a_cluster_comes_back_through_connections_that_are_cut_all_the_time(
    cut_site: tuple[Site, Cutter, ObjectStore],
) -> None:
    site, cutter, _ = cut_site
    _fill(site.server)
    with Disturber(cutter, seed=2026) as disturber:
        with Load(site.server, ddl=True, rate=100) as load:
            site.pgkeep("backup")
            load.wait_transactions(200)
            site.pgkeep("backup")
        last = site.mark("last")
        site.server.wait_archived()
        with site.restored("--latest", "--wal", "fetch") as back:
            back.wait_recovery_end()
            assert_same_digest(cluster_digest(back), last.digest)
    assert disturber.strikes > 5
    judge_by_postgresql(site)


@pytest.mark.majors(18)
def test_a_store_that_is_away_in_the_middle_costs_time_and_nothing_else(
    cut_site: tuple[Site, Cutter, ObjectStore],
) -> None:
    site, cutter, direct = cut_site
    _fill(site.server)
    _slow(cutter)
    packs = f"main/{site.server.psql('SELECT system_identifier FROM pg_control_system()')}/packs/"

    began = time.monotonic()
    with Load(site.server, rate=100), _Away(cutter, lambda: any(direct.list(packs))):
        site.pgkeep("backup")
    last = site.mark("last")
    assert time.monotonic() - began > _AWAY_SECONDS
    site.server.wait_archived()

    into = new_directory("r") / "data"
    began = time.monotonic()
    with _Away(cutter, lambda: into.is_dir() and any(into.iterdir())):
        site.pgkeep("restore", "--into", into, "--latest", "--wal", "fetch")
    assert time.monotonic() - began > _AWAY_SECONDS
    with PgServer.adopt(site.server.installation, into) as back:
        back.wait_recovery_end()
        assert_same_digest(cluster_digest(back), last.digest)


class _Away:
    """Let the store vanish for a while as soon as ``begins``, while the block runs."""

    def __init__(self, cutter: Cutter, begins: Callable[[], bool]) -> None:
        self._cutter, self._begins = cutter, begins
        self._over = threading.Event()
        self._was_away = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self._was_away, "the command was over before the store was away"

    def _run(self) -> None:
        while not self._begins():
            if self._over.wait(0.05):
                return
        self._cutter.vanish()
        self._was_away = not self._over.wait(_AWAY_SECONDS)
        self._cutter.heal()
        _slow(self._cutter)
