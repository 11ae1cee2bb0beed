"""Promise: pages that a server wrote verify, and the verdict is that of ``pg_checksums``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.page import (
    DEFAULT_PAGE_SIZE,
    FailedPage,
    PageScan,
    PageState,
    checksum_page,
    page_lsn,
    parse_page_header,
)
from pgkeep.postgres.relation import parse_relation_path
from tests.factory import ServerFactory
from tests.postgres.pages import KEY, one_verdict, sound_page
from tests.servers import PgServer

RELATION_SEGMENT_BLOCKS = 131072


@pytest.fixture
def stopped_server(server_factory: ServerFactory) -> PgServer:
    """A cluster with heap, TOAST, every index type of core, sequences, free space and
    visibility maps, cleanly shut down."""
    server = server_factory()
    server.psql(
        """
        CREATE TABLE t AS SELECT g AS id, md5(g::text) AS m, point(g, g) AS p,
            ARRAY[g, g + 1] AS a, repeat(md5(g::text), 10) AS r FROM generate_series(1, 20000) g;
        CREATE INDEX ON t (id);
        CREATE INDEX ON t USING hash (m);
        CREATE INDEX ON t USING gist (p);
        CREATE INDEX ON t USING spgist (p);
        CREATE INDEX ON t USING gin (a);
        CREATE INDEX ON t USING brin (id);
        CREATE TABLE toasted (x text);
        ALTER TABLE toasted ALTER x SET STORAGE EXTERNAL;
        INSERT INTO toasted SELECT repeat('x', 100000) FROM generate_series(1, 20);
        CREATE SEQUENCE s; SELECT nextval('s');
        CREATE UNLOGGED TABLE u AS SELECT 1 AS x;
        DELETE FROM t WHERE id % 3 = 0;
        """
    )
    server.psql("VACUUM ANALYZE")
    server.psql("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 3000) g")
    server.stop()
    return server


def relation_files(pgdata: Path) -> Iterator[tuple[Path, int]]:
    """Each file that has pages, with the number of its first block."""
    for path in sorted([*pgdata.glob("base/*/*"), *pgdata.glob("global/*")]):
        relation = parse_relation_path(str(path.relative_to(pgdata)))
        if relation is not None:
            yield path, relation.first_block(RELATION_SEGMENT_BLOCKS)


def all_scans(pgdata: Path) -> dict[str, PageScan]:
    return {
        str(path.relative_to(pgdata)): one_verdict(path.read_bytes(), key=KEY, first_block=block)
        for path, block in relation_files(pgdata)
    }


def pg_checksums(server: PgServer) -> tuple[int, dict[tuple[str, int], tuple[int, int]]]:
    """Blocks that the server's own program read; what it found bad: computed and stored."""
    done = server.run("pg_checksums", "--check", "-D", server.pgdata, check=False)
    blocks = re.search(r"Blocks scanned: +(\d+)", done.stdout)
    assert blocks is not None, done.stdout + done.stderr
    bad = re.findall(
        r'in file "(.+?)", block (\d+): calculated checksum (\w+) but block contains (\w+)',
        done.stderr,
    )
    found = {
        (str(Path(path).relative_to(server.pgdata)), int(block)): (int(now, 16), int(then, 16))
        for path, block, now, then in bad
    }
    assert (done.returncode == 0) == (not found), done.stderr
    return int(blocks[1]), found


def test_every_page_of_a_real_cluster_verifies(stopped_server: PgServer) -> None:
    scans = all_scans(stopped_server.pgdata)
    assert [name for name, scan in scans.items() if scan.failed] == []
    pages = sum(scan.page_count for scan in scans.values())
    assert pg_checksums(stopped_server) == (pages, {})
    assert sum(scan.states.count(PageState.DATA) for scan in scans.values()) > 3000


def test_every_header_of_a_real_cluster_makes_sense(stopped_server: PgServer) -> None:
    end = parse_control_lsn(stopped_server)
    for path, _ in relation_files(stopped_server.pgdata):
        data = path.read_bytes()
        for start in range(0, len(data), DEFAULT_PAGE_SIZE):
            header = parse_page_header(data, start)
            if header.is_new:
                continue
            assert (header.page_size, header.layout_version) == (8192, 4)
            assert 24 <= header.lower <= header.upper <= header.special <= 8192
            assert header.lsn <= end


def parse_control_lsn(server: PgServer) -> Lsn:
    """Where the shutdown checkpoint lies: no page can be newer."""
    text = server.run("pg_controldata", "-D", server.pgdata).stdout
    found = re.search(r"Latest checkpoint location: +(\S+)", text)
    assert found is not None, text
    return Lsn.parse(found[1])


def test_a_damaged_page_is_found_as_pg_checksums_finds_it(stopped_server: PgServer) -> None:
    pgdata = stopped_server.pgdata
    path, _ = max(relation_files(pgdata), key=lambda item: item[0].stat().st_size)
    name, index = str(path.relative_to(pgdata)), 11
    flip_bit(path, index * DEFAULT_PAGE_SIZE + 5000)
    failed = {name: scan.failed for name, scan in all_scans(pgdata).items() if scan.failed}
    page = path.read_bytes()[index * DEFAULT_PAGE_SIZE :][:DEFAULT_PAGE_SIZE]
    assert failed == {name: (FailedPage(index, page_lsn(page), PageState.CHECKSUM_MISMATCH),)}
    _, bad = pg_checksums(stopped_server)
    stored = parse_page_header(page).checksum
    assert bad == {(name, index): (checksum_page(page, index), stored)}


def flip_bit(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


def test_a_second_segment_counts_on_from_the_first(stopped_server: PgServer) -> None:
    pgdata = stopped_server.pgdata
    path, _ = next(relation_files(pgdata))
    segment = path.with_name(path.name + ".2")
    right, wrong = sound_page(8192, 2 * RELATION_SEGMENT_BLOCKS), sound_page(8192, 1)
    segment.write_bytes(right + wrong)
    name = str(segment.relative_to(pgdata))
    assert [page.index for page in all_scans(pgdata)[name].failed] == [1]
    _, bad = pg_checksums(stopped_server)
    assert list(bad) == [(name, 1)]


def test_a_new_page_with_content_is_reported_where_pg_checksums_looks_away(
    stopped_server: PgServer,
) -> None:
    pgdata = stopped_server.pgdata
    path, _ = next(relation_files(pgdata))
    page_count = path.stat().st_size // DEFAULT_PAGE_SIZE
    with open(path, "ab") as file:
        file.write(bytes(8192) + bytes(8191) + b"x")
    scan = all_scans(pgdata)[str(path.relative_to(pgdata))]
    assert scan.failed == (FailedPage(page_count + 1, Lsn(0), PageState.INVALID_NEW),)
    assert scan.states[page_count] == PageState.ZERO
    _, bad = pg_checksums(stopped_server)
    assert bad == {}
