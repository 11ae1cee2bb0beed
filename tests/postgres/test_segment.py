"""A segment is accepted only if it is the one its name says, written by our cluster."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import ForeignWal
from pgkeep.postgres.control import parse_control_file
from pgkeep.postgres.segment import (
    HEADER_SIZE,
    LONG_HEADER,
    MAGIC_BY_MAJOR,
    check_segment,
    parse_segment_header,
)
from pgkeep.postgres.wal_name import segment_name, segment_number
from tests.installations import Installation
from tests.postgres.clusters import initdb
from tests.server_user import run_as_server_user

SYSTEM = 7710300270422693827
SIZE = 16 << 20
NAME = "000000020000000A000000FE"
ADDRESS = 0xAFE000000


def page(
    *,
    magic: int = MAGIC_BY_MAJOR[18],
    info: int = LONG_HEADER,
    timeline: int = 2,
    address: int = ADDRESS,
    system: int = SYSTEM,
    size: int = SIZE,
) -> bytes:
    return struct.pack("<HHIQI4xQII", magic, info, timeline, address, 0, system, size, 8192)


def check(data: bytes, *, name: str = NAME, force: bool = False) -> None:
    header = parse_segment_header(data)
    check_segment(
        header, name, system_identifier=SYSTEM, segment_size=SIZE, allow_unknown_magic=force
    )


def test_the_right_segment_is_accepted() -> None:
    check(page())
    check(page(), name=f"{NAME}.partial")


def test_the_copied_beginning_of_an_older_timeline_is_accepted() -> None:
    check(page(timeline=1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (page(system=SYSTEM + 1), "another cluster"),
        (page(address=ADDRESS + SIZE), "another position"),
        (page(address=ADDRESS - (1 << 32)), "another position"),
        (page(size=SIZE * 2), "wrong segment size"),
        (page(timeline=3), "timeline 3"),
        (page(magic=0xD097), "D097"),
        (page(info=0), "lacks the long header"),
        (bytes(HEADER_SIZE), "begins with zeros"),
        (page()[:-1], "not a WAL segment"),
    ],
)
def test_any_other_segment_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ForeignWal, match=reason) as refused:
        check(data)
    assert refused.value.remedy


def test_a_name_impossible_with_the_segment_size_is_refused() -> None:
    with pytest.raises(ForeignWal, match="no such segment can exist"):
        check(page(), name="000000020000000A00000100")


def test_a_forced_major_is_still_checked_for_everything_else() -> None:
    check(page(magic=0xD120), force=True)
    with pytest.raises(ForeignWal, match="another cluster"):
        check(page(magic=0xD120, system=1), force=True)


def test_without_a_known_system_the_rest_is_still_checked() -> None:
    check_segment(
        parse_segment_header(page(system=1)), NAME, system_identifier=None, segment_size=SIZE
    )


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE + 100))
def test_noise_is_never_accepted(data: bytes) -> None:
    with pytest.raises(ForeignWal):
        check(data)


@pytest.mark.every_major
@pytest.mark.parametrize("size_mb", [1, 16])
def test_a_real_segment_is_accepted_under_its_own_name_only(
    pg_installation: Installation, server_tmp: Path, size_mb: int
) -> None:
    _check_a_real_segment(pg_installation, server_tmp / "data", size_mb)


def test_the_largest_segments_are_accepted(
    newest_installation: Installation, server_tmp: Path
) -> None:
    _check_a_real_segment(newest_installation, server_tmp / "data", 1024)


def _check_a_real_segment(installation: Installation, pgdata: Path, size_mb: int) -> None:
    initdb(installation, pgdata, wal_segsize_mb=size_mb)
    size = size_mb << 20
    control = parse_control_file((pgdata / "global" / "pg_control").read_bytes())
    number = segment_number(control.checkpoint, size)
    path = pgdata / "pg_wal" / segment_name(1, number, size)
    with open(path, "rb") as file:
        header = parse_segment_header(file.read(HEADER_SIZE))
    assert (header.major, header.segment_size) == (installation.major, size)
    assert header.block_size == control.wal_block_size
    run_as_server_user([installation.program("pg_waldump"), "--quiet", "--limit=1", path])
    ours = control.system_identifier
    check_segment(header, path.name, system_identifier=ours, segment_size=size)
    wrong = segment_name(1, number + 1, size)
    with pytest.raises(ForeignWal, match="another position"):
        check_segment(header, wrong, system_identifier=ours, segment_size=size)
