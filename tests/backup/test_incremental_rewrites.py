"""Whatever writes files anew between two backups, under old names and new ones, each backup
restores to what was there (invariant 11)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backup.lineage import Lineage, file_of
from tests.servers import PgServer

pytestmark = pytest.mark.usefixtures("hasty")

REWRITES = (
    "VACUUM FULL t",
    "CLUSTER t USING t_i",
    "REINDEX TABLE t",
    "ALTER TABLE t SET UNLOGGED; UPDATE t SET filler = 'unlogged' WHERE i % 7 = 0",
    "ALTER TABLE t SET LOGGED",
    "TRUNCATE t",
    "INSERT INTO t SELECT i, 'again' FROM generate_series(1, 30000) i",
    "DELETE FROM t WHERE i > 10000",
    "VACUUM t",  # cuts the file off
    "ALTER TABLE t ALTER i TYPE bigint",
)


def restart_with(server: PgServer, **settings: str | int) -> None:
    server.stop()
    server.configure(settings)
    server.start()


def test_relations_that_were_written_anew_restore(lineage: Lineage) -> None:
    server = lineage.server
    server.psql(
        "CREATE TABLE t AS SELECT (i * 7919) % 30011 AS i, repeat('x', i % 300) AS filler"
        " FROM generate_series(1, 30000) i; CREATE INDEX t_i ON t (i);"
        "CREATE TABLE untouched AS SELECT i FROM generate_series(1, 100000) i"
    )
    lineage.backup()
    for statement in REWRITES:
        for part in statement.split(";"):  # VACUUM is no part of a larger transaction
            server.psql(part)
        server.psql("INSERT INTO untouched VALUES (0)")
        # None of them reads all files, as every seventh would: what is skipped must be right.
        assert lineage.incremental(read_all_every=1000).unread
    lineage.check_all()


def test_what_was_written_without_wal_restores(lineage: Lineage) -> None:
    server = lineage.server
    server.psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 30000) i")
    lineage.backup()
    restart_with(server, archive_mode="off", wal_level="minimal", max_wal_senders=0)
    server.psql(
        "BEGIN; TRUNCATE t; COPY t FROM PROGRAM 'seq 1 50000'; COMMIT;"
        "CREATE TABLE u AS SELECT i FROM generate_series(1, 30000) i; CREATE INDEX ON u (i);"
    )
    restart_with(server, archive_mode="on", wal_level="replica", max_wal_senders=10)
    lineage.incremental()
    lineage.check_all()


def test_a_database_that_takes_the_oid_and_the_files_of_a_dropped_one_restores(
    lineage: Lineage,
) -> None:
    """Neither the path nor the LSN of a page tells that it is another."""
    server = lineage.server
    server.psql("CREATE DATABASE one")
    server.psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 30000) i", "one")
    server.psql("CREATE DATABASE two TEMPLATE one STRATEGY file_copy")
    server.psql("UPDATE t SET i = -i WHERE i % 500 = 0; VACUUM t", "two")
    server.psql("CREATE DATABASE first OID 70000 TEMPLATE one STRATEGY file_copy")
    path = file_of(server, "t", "first")
    lineage.backup()
    server.psql("DROP DATABASE first")
    server.psql("CREATE DATABASE second OID 70000 TEMPLATE two STRATEGY file_copy")
    assert file_of(server, "t", "second") == path
    lineage.incremental()
    server.psql("DROP DATABASE second")
    server.psql("CREATE DATABASE third OID 70000 TEMPLATE one STRATEGY file_copy")
    assert file_of(server, "t", "third") == path
    lineage.incremental()
    lineage.check_all()


def test_page_checksums_switched_on_and_off_between_backups(
    make_lineage: Callable[..., Lineage],
) -> None:
    lineage = make_lineage(checksums=False)
    server = lineage.server
    server.psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 30000) i")
    assert not lineage.backup().head.checksums
    for action, checksums in (("--enable", True), ("--disable", False), ("--enable", True)):
        server.stop()
        server.run("pg_checksums", action, "-D", server.pgdata)
        server.start()
        server.psql("UPDATE t SET i = -i WHERE i % 1000 = 0")
        assert lineage.incremental().head.checksums is checksums
    lineage.check_all()


@pytest.mark.majors(18)
def test_a_relation_of_several_segment_files_grows_and_shrinks(lineage: Lineage) -> None:
    server = lineage.server
    server.configure({"max_wal_size": "4GB"})
    forget_archive(lineage)
    server.psql(
        "CREATE TABLE t (i int, filler text); ALTER TABLE t ALTER filler SET STORAGE PLAIN;"
        "INSERT INTO t SELECT i, repeat('x', 8000) FROM generate_series(1, 20000) i"
    )
    archive(lineage)
    lineage.backup()
    forget_archive(lineage)
    server.psql("INSERT INTO t SELECT i, repeat('y', 8000) FROM generate_series(20001, 140000) i")
    archive(lineage)
    first = file_of(server, "t")
    second = first.with_name(f"{first.name}.1")
    lineage.incremental()
    assert (first.stat().st_size, second.stat().st_size > 8192) == (1 << 30, True)
    server.psql("DELETE FROM t WHERE i > 50000 OR i % 1000 = 0")
    server.psql("VACUUM t")
    assert second.stat().st_size == 0
    lineage.incremental()
    server.psql("INSERT INTO t SELECT -i, repeat('z', 8000) FROM generate_series(1, 1000) i")
    lineage.incremental()
    for backup in lineage.made[1:]:
        lineage.check(backup)


def forget_archive(lineage: Lineage) -> None:
    """WAL goes nowhere: for writing a lot of it that no restore of the test needs."""
    lineage.server.configure({"archive_command": "true"})
    lineage.server.reload()


def archive(lineage: Lineage) -> None:
    lineage.server.configure({"archive_command": lineage.site.archive_command})
    lineage.server.reload()
