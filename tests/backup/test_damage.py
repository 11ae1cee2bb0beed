"""Damage on the disk of a real server is reported by file and block, and a busy server's torn
pages are not taken for damage (invariant 12)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.repository.catalogue import is_good, read_inventory
from tests.backup.site import Site
from tests.load import Load, prepare_pgbench

PAGE = 8192


def flip(path: Path, *, block: int) -> None:
    with path.open("r+b") as file:
        file.seek(block * PAGE + 4000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 16]))


def test_a_flipped_bit_is_reported_and_the_backup_is_kept(site: Site) -> None:
    prepare_pgbench(site.server)
    site.server.psql("CHECKPOINT")
    path = site.server.psql("SELECT pg_relation_filepath('pgbench_accounts')")
    for block in (7, 1200):
        flip(site.server.pgdata / path, block=block)
    report = site.backup()
    assert report.failed == ((path, 7), (path, 1200))
    assert report.head.failed_pages == 2
    backup = site.read(report.head.backup)
    assert backup.files[path].failed == [7, 1200]
    assert backup.content(path) == (site.server.pgdata / path).read_bytes()
    (listed,) = site.listed()
    inventory = read_inventory(site.repository(), site.layout, listed.head.wal_segment_size)
    assert not is_good(listed, inventory)


@pytest.mark.majors(18)
def test_the_exit_code_says_it(site: Site) -> None:
    site.server.psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i; CHECKPOINT")
    path = site.server.psql("SELECT pg_relation_filepath('t')")
    flip(site.server.pgdata / path, block=3)
    process = site.start_program()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 71, said
    assert f"{path} page 3" in said
    assert len(site.listed()) == 1


@pytest.mark.majors(18)
def test_without_checksums_nothing_is_reported(server_factory: object) -> None:
    site = Site(server_factory, checksums=False)  # type: ignore[arg-type]
    site.server.psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i; CHECKPOINT")
    flip(site.server.pgdata / site.server.psql("SELECT pg_relation_filepath('t')"), block=3)
    report = site.backup()
    assert (report.failed, report.head.checksums) == ((), False)


def test_a_busy_server_gives_no_false_alarm(site: Site) -> None:
    site.server.configure({"autovacuum": "on", "bgwriter_delay": "10ms", "checkpoint_timeout": 30})
    prepare_pgbench(site.server, scale=3)
    with Load(site.server, ddl=True) as load:
        for _ in range(3):
            load.wait_churn_rounds(load.churn_rounds + 1)
            site.server.psql("CHECKPOINT")
            assert site.backup(rate_limit=80 << 20).failed == ()
    for backup in site.listed():
        site.check_restorable(backup)
