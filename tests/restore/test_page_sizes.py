"""Servers with other page and segment sizes are kept as any other.

Nobody packages them, so they are built for these tests: ``tools/odd_postgres.py``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pgkeep.postgres.connection import connect
from pgkeep.progress import Silent
from pgkeep.restore import target
from pgkeep.verify.run import VerifyOptions, verify
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.installations import Installation
from tests.load import Load, prepare_pgbench
from tests.restore.site import BY, Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import can_run, run_as_server_user
from tools.odd_postgres import BUILDS, Build

pytestmark = [pytest.mark.end_to_end, pytest.mark.server]


@pytest.fixture(params=BUILDS, ids=[build.name for build in BUILDS])
def build(request: pytest.FixtureRequest) -> Build:
    found: Build = request.param
    if not can_run([found.bin_dir / "initdb", "--version"]):
        pytest.skip(
            f"no PostgreSQL with {found.page_kib} KiB pages in {found.bin_dir}: "
            "python3 -m tools.odd_postgres builds it"
        )
    return found


@pytest.fixture
def site(build: Build) -> Iterator[Site]:
    said = subprocess.run(
        [build.bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    version = said.stdout.split()[2]
    installation = Installation(int(version.split(".")[0]), version, build.bin_dir, build.name)
    factory = ServerFactory(installation)
    made = Site(factory, wal_segsize_mb={4: 1, 16: 64, 32: 16}[build.page_kib])
    yield made
    factory.close()
    made.close()


def test_backups_of_changes_restores_to_points_and_over_a_directory(
    site: Site, build: Build
) -> None:
    server = site.server
    prepare_pgbench(server)
    first = site.backup()
    with Load(server, ddl=True, rate=200) as load:
        load.wait_churn_rounds(2)
        second = site.backup()
        load.wait_churn_rounds(3)
    at_point = cluster_digest(server)
    server.psql("SELECT pg_create_restore_point('the point')")
    with Load(server, rate=200) as load:
        load.wait_transactions(50)
    at_end = cluster_digest(server)
    server.wait_archived()

    size = build.page_kib << 10
    assert (first.head.page_size, second.head.page_size) == (size, size)
    assert (first.failed, second.failed) == ((), ())
    assert second.head.added_bytes < first.head.added_bytes / 2
    with connect(server.conninfo) as connection:
        facts = connection.server_facts()
    assert facts.relation_segment_blocks == (build.segment_pages or (1 << 30) // size)

    report = site.restore(target=target.at_name("the point"), action="pause")
    into = report.plan.options.into
    verify_backup(server.installation, into)
    back = site.factory.adopt(into).start()
    back.wait_for("SELECT pg_get_wal_replay_pause_state() = 'paused'")
    assert_same_digest(at_point, cluster_digest(back))
    back.stop()

    site.restore(delta=True)
    verify_backup(server.installation, into)
    back = site.recovered(report)
    assert_same_digest(at_end, cluster_digest(back))
    back.psql("CREATE EXTENSION amcheck")
    back.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
    back.stop()
    run_as_server_user([back.program("pg_checksums"), "--check", into])
    checked = verify(site.repository, site.layout, VerifyOptions("deep", BY), progress=Silent())
    assert checked.problems == []


def test_a_damaged_page_is_named_by_file_and_page(site: Site, build: Build) -> None:
    size = build.page_kib << 10
    server = site.server
    server.psql("CREATE TABLE t AS SELECT i, repeat('x', 400) FROM generate_series(1, 9000) i")
    server.psql("CHECKPOINT")
    path = server.psql("SELECT pg_relation_filepath('t')")
    if build.segment_pages:
        path += ".2"  # the checksum depends on the number of the block in the whole relation
    site.backup()
    with open(server.pgdata / path, "r+b") as file:
        file.seek(5 * size + size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 16]))
    report = site.backup()
    assert report.failed == ((path, 5),)
