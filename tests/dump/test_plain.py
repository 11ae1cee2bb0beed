"""Plain dumps come back whatever they are packed with."""

from __future__ import annotations

import os

import lz4.frame
import pytest

from pgkeep.dump.check import DumpCheckOptions, check_dumps
from pgkeep.dump.unpacking import unpacked
from pgkeep.errors import DamagedObject, DumpError, DumpRefused
from pgkeep.progress import Silent
from pgkeep.repository.dumps import delete_dumps
from tests.dump.kit import PROGRAMS, Bench
from tests.servers import PgServer

ROWS = (
    "CREATE TABLE t AS SELECT n, repeat(md5((n % 97)::text), 1 + n % 5) AS text "
    "FROM generate_series(1, 60000) n"
)
SUM = "SELECT count(*), md5(string_agg(text, ',' ORDER BY n)) FROM t"


@pytest.mark.majors(17, 18)
@pytest.mark.parametrize("compression", ["lz4", "lz4:9", "zstd:3", "gzip:1"])
def test_a_plain_dump_is_restored_and_checked(server: PgServer, compression: str) -> None:
    server.psql("CREATE DATABASE shop")
    server.psql(ROWS, "shop")
    bench = Bench(server)
    try:
        made = bench.dump(format="plain", compression=compression, include=("shop",))
    except DumpError as error:
        if "this build does not support compression" not in str(error):
            raise
        pytest.skip(f"{server.installation.major}: {error.why}")
    file = made.file("database", "shop")
    assert file is not None
    assert file.compression == compression
    bench.restore(made, server, databases=("shop",), rename="back")
    assert server.psql(SUM, "back") == server.psql(SUM, "shop")
    for level in ("scrub", "deep"):
        options = DumpCheckOptions(level, {"PATH": os.environ["PATH"]}, PROGRAMS)
        found = check_dumps(bench.repository, bench.layout, options, progress=Silent())
        assert (found.read, found.problems) == ([made.dump], [])
    delete_dumps(bench.store, bench.layout, [made.dump])


def test_what_is_no_whole_lz4_frame_is_damaged() -> None:
    text = b"-- PostgreSQL database dump" * 1000
    frame = lz4.frame.compress(text, content_checksum=True)
    assert b"".join(unpacked([frame[:9], frame[9:]], "lz4")) == text
    flipped = bytearray(frame)
    flipped[len(frame) // 2] ^= 1
    for bad in (frame[:-1], frame[: len(frame) // 2], b"", bytes(flipped), b"SELECT 1;"):
        with pytest.raises(DamagedObject):
            list(unpacked([bad], "lz4"))


def test_a_bomb_is_unpacked_a_little_at_a_time() -> None:
    frame = lz4.frame.compress(bytes(64 << 20), block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    sizes = [len(piece) for piece in unpacked([frame], "lz4")]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 4 << 20


def test_a_method_that_we_do_not_know_is_refused() -> None:
    with pytest.raises(DumpRefused):
        list(unpacked([b""], "brotli"))
