"""Plain dumps come back whatever they are packed with."""

from __future__ import annotations

import os
import random
from contextlib import suppress

import pytest

from pgkeep.dump.check import DumpCheckOptions, check_dumps
from pgkeep.dump.lz4_frame import unpack_frames
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


HEAD = b"\x04\x22\x4d\x18\x40\x40\x00"  # blocks that follow on each other, of up to 64 KiB
END = b"\0\0\0\0"


def block(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def stored(data: bytes) -> bytes:
    return (len(data) | 1 << 31).to_bytes(4, "little") + data


def read(data: bytes, step: int = 1000) -> bytes:
    return b"".join(unpack_frames(data[at : at + step] for at in range(0, len(data), step)))


def test_lz4_frames() -> None:
    # "abc", then 3 back and 9 on, which overlaps itself; then the last literals.
    packed = b"\x35abc\x03\x00\x10z"
    whole = b"abcabcabcabcz"
    # From the block before: 13 back.
    further = b"\x00\x0d\x00\x10y"
    frame = HEAD + block(packed) + stored(b"") + block(further) + stored(b"plain") + END
    assert read(frame) == whole + whole[:4] + b"y" + b"plain"
    for step in (1, 2, 7):
        assert read(frame, step) == read(frame)
    skipped = b"\x53\x2a\x4d\x18" + block(b"notes")
    assert read(frame + skipped + HEAD + stored(b"next") + END) == read(frame) + b"next"
    # With a length, checksums of blocks and of all; and a length of literals over 15 and 255.
    letters = bytes(range(256)) * 2
    long = b"\xf0" + bytes([255, 512 - 15 - 255]) + letters
    more = b"\x04\x22\x4d\x18\x5c\x40" + bytes(9) + block(long) + b"sumo" + END + b"sums"
    assert read(more) == letters
    assert read(b"") == b""


def test_what_is_no_lz4_frame_is_damaged_and_never_anything_else() -> None:
    frame = HEAD + block(b"\x35abc\x03\x00\x10z") + END
    for size in range(1, len(frame)):
        with pytest.raises(DamagedObject):
            read(frame[:size])
    chance = random.Random(1)
    for _ in range(3000):
        bad = bytearray(frame * 2)
        for _ in range(chance.randint(1, 3)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        with suppress(DamagedObject):
            read(bytes(bad))
    # More than a block may hold.
    with pytest.raises(DamagedObject):
        read(HEAD + block(b"\x1fa\x01\x00" + b"\xff" * 300 + b"\x00\x10z") + END)


def test_a_method_that_we_do_not_know_is_refused() -> None:
    with pytest.raises(DumpRefused):
        list(unpacked([b""], "brotli"))
