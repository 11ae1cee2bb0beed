"""What changes in a page without moving its LSN, or under an old time, is in the next backup
(invariant 11)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.lineage import Lineage, file_of
from tests.servers import PgServer

BOTH = pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "no-checksums"])


def page_lsns(path: Path) -> list[bytes]:
    """The LSN of each page of a file, as its bytes."""
    data = path.read_bytes()
    return [data[start : start + 8] for start in range(0, len(data), 8192)]


@BOTH
def test_cleared_bits_of_the_visibility_map_are_in_the_next_backup(
    make_lineage: Callable[..., Lineage], checksums: bool
) -> None:
    """An index-only scan believes the map: with an old one it finds rows that were deleted."""
    lineage = make_lineage(checksums=checksums)
    server = lineage.server
    server.psql(
        "CREATE TABLE t AS SELECT i, repeat('x', 100) AS filler FROM generate_series(1, 50000) i;"
        "CREATE UNIQUE INDEX ON t (i); VACUUM (FREEZE) t"
    )
    lineage.backup()
    server.psql("CHECKPOINT")
    table = file_of(server, "t")
    map_file = table.with_name(f"{table.name}_vm")
    before, lsns = map_file.read_bytes(), page_lsns(map_file)
    server.psql("DELETE FROM t WHERE i % 500 = 1; UPDATE t SET filler = 'new' WHERE i % 500 = 2")
    server.psql("CHECKPOINT")
    assert map_file.read_bytes() != before
    assert page_lsns(map_file) == lsns, "the case is not there: the LSN tells of the change"
    second = lineage.incremental()
    answers = ask_both_ways(server)
    assert answers[0] == answers[1]
    with lineage.recovered(second.head.backup) as back:
        assert ask_both_ways(back) == answers
        if back.installation.has_contrib:
            back.psql("CREATE EXTENSION pg_visibility")
            for function in ("pg_check_visible", "pg_check_frozen"):
                assert back.psql(f"SELECT count(*) FROM {function}('t')") == "0"
    lineage.check_all()


def ask_both_ways(server: PgServer) -> list[str]:
    """The same question by an index-only scan and by a sequential one."""
    question = "SELECT concat_ws(' ', count(*), sum(i), min(i), max(i)) FROM t WHERE i < 40000"
    only_index = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexscan = on;"
    only_table = "SET enable_indexonlyscan = off; SET enable_indexscan = off;"
    only_table += "SET enable_bitmapscan = off;"
    answers = []
    for settings, node in ((only_index, "Index Only Scan"), (only_table, "Seq Scan")):
        assert node in server.psql(f"{settings} EXPLAIN {question}")
        answers.append(server.psql(settings + question))
    return answers


@BOTH
def test_hint_bits_that_a_reader_set_are_in_the_next_backup(
    make_lineage: Callable[..., Lineage], checksums: bool
) -> None:
    lineage = make_lineage(checksums=checksums)
    server = lineage.server
    server.psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 20000) i")
    server.psql("CHECKPOINT")
    lineage.backup_of_any_state()
    table = file_of(server, "t")
    before = table.read_bytes()
    server.psql("SELECT count(*) FROM t")
    second = lineage.backup()
    assert table.read_bytes() != before, "the case is not there: the reader changed nothing"
    path = str(table.relative_to(server.pgdata))
    assert lineage.read(second.head.backup).content(path) == table.read_bytes()
    lineage.check(second.head.backup)


@pytest.mark.majors(18)
@pytest.mark.skipif(os.uname().sysname != "Linux", reason="a stalled write is made Linux's way")
def test_a_write_that_lands_late_under_an_old_time_is_in_the_next_backup(lineage: Lineage) -> None:
    """The kernel notes the time when a mapped page is first written to, and not again until it has
    been written to disk: what comes in between is like a write that was stalled."""
    late = lineage.server.pgdata / "late"
    with late.open("w+b") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[100] ^= 1
            lineage.backup()
            before = late.stat()
            mapped[100] ^= 1
            mapped[101] ^= 1
            after = late.stat()
            second = lineage.incremental()
            if (before.st_mtime_ns, before.st_ctime_ns) != (after.st_mtime_ns, after.st_ctime_ns):
                pytest.skip("this file system told the time of the second write")
    assert lineage.read(second.head.backup).content("late") == late.read_bytes()
