"""A WAL file's name is understood exactly as the server understands it, for every segment size."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres import wal_name
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import WalKind, parse_wal_name
from tests.factory import ServerFactory
from tests.postgres.clusters import initdb

SIZES = [1 << power for power in range(20, 31)]
sizes = st.sampled_from(SIZES)
timelines = st.integers(1, 0xFFFFFFFF)
positions = st.integers(0, (1 << 64) - 1)


@given(timelines, positions, sizes)
def test_position_to_name_and_back(timeline: int, lsn: int, size: int) -> None:
    segno = wal_name.segment_number(lsn, size)
    name = wal_name.segment_name(timeline, segno, size)
    parsed = parse_wal_name(name)
    assert (parsed.kind, parsed.timeline, parsed.segment) == (WalKind.SEGMENT, timeline, name)
    assert wal_name.segment_of(name, size) == segno
    start = wal_name.segment_start_lsn(segno, size)
    assert start <= lsn < start + size


@given(timelines, st.integers(0, (1 << 30) - 2), sizes)
def test_the_next_name_is_the_next_number_and_sorts_after(timeline: int, n: int, size: int) -> None:
    name = wal_name.segment_name(timeline, n, size)
    following = wal_name.next_segment(name, size)
    assert wal_name.segment_of(following, size) == n + 1
    assert following > name


@given(positions, st.integers(0, 40), st.integers(0, 1 << 20), sizes)
def test_a_range_names_each_segment_with_bytes_of_it_once(
    start: int, segments: int, rest: int, size: int
) -> None:
    stop = min(start + segments * size + rest, (1 << 64) - 1)
    names = list(wal_name.segments_between(Lsn(start), Lsn(stop), 3, size))
    numbers = [wal_name.segment_of(name, size) for name in names]
    last = max(stop - 1, start)
    assert numbers == list(range(start // size, last // size + 1))


def test_a_stop_on_a_boundary_needs_nothing_of_the_segment_that_begins_there() -> None:
    size = 16 << 20
    start, boundary = Lsn(size + 40), Lsn(2 * size)
    assert list(wal_name.segments_between(start, boundary, 1, size)) == [
        "0" * 7 + "1" + "0" * 15 + "1"
    ]
    after = list(wal_name.segments_between(start, Lsn(boundary + 1), 1, size))
    assert [name[-1] for name in after] == ["1", "2"]


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="before its start"):
        list(wal_name.segments_between(Lsn(2), Lsn(1), 1, 16 << 20))


def test_all_four_kinds_are_told_apart() -> None:
    segment = "000000020000000A000000FE"
    kinds = {
        segment: WalKind.SEGMENT,
        f"{segment}.partial": WalKind.PARTIAL,
        f"{segment}.00000028.backup": WalKind.BACKUP_LABEL,
        "00000002.history": WalKind.HISTORY,
    }
    for name, kind in kinds.items():
        parsed = parse_wal_name(name)
        assert (parsed.name, parsed.kind, parsed.timeline) == (name, kind, 2)
        if kind is not WalKind.HISTORY:
            assert (parsed.log, parsed.seg, parsed.segment) == (0xA, 0xFE, segment)
    assert parse_wal_name(f"{segment}.00000028.backup").offset_bytes == 0x28
    assert wal_name.history_name(2) == "00000002.history"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000002",
        ".history",
        "00000000.history",
        "0000000a.history",
        "00000002.history.tmp",
        "00000002.partial",
        "000000020000000A000000F",
        "000000020000000A000000FE0",
        "000000020000000a000000fe",
        "000000000000000A000000FE",
        "000000020000000A000000FE.",
        "000000020000000A000000FE.history",
        "000000020000000A000000FE.ready",
        "000000020000000A000000FE.backup",
        "000000020000000A000000FE.28.backup",
        "000000020000000A000000FE.00000028.backup.x",
        "000000020000000A000000FE.0000002g.backup",
        "../000000020000000A00000",
        "000000020000000A000000F\n",
        "٠٠٠٠٠٠٠2.history",
        "RECOVERYXLOG",
        "xlogtemp.123",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a WAL"):
        parse_wal_name(name)


@given(st.text(alphabet="0123456789ABCDEFabc./-historybackuppartial", max_size=45))
def test_whatever_is_accepted_is_one_of_the_four_forms(text: str) -> None:
    try:
        parsed = parse_wal_name(text)
    except ValueError:
        return
    rebuilt = {
        WalKind.SEGMENT: f"{parsed.timeline:08X}{parsed.log:08X}{parsed.seg:08X}",
        WalKind.PARTIAL: f"{parsed.timeline:08X}{parsed.log:08X}{parsed.seg:08X}.partial",
        WalKind.BACKUP_LABEL: f"{parsed.timeline:08X}{parsed.log:08X}{parsed.seg:08X}"
        f".{parsed.offset_bytes:08X}.backup",
        WalKind.HISTORY: f"{parsed.timeline:08X}.history",
    }
    assert rebuilt[parsed.kind] == text


def test_a_name_that_another_segment_size_made_gives_itself_away() -> None:
    with pytest.raises(ValueError, match="cannot exist with segments of 1073741824 bytes"):
        wal_name.segment_of("000000010000000000000004", 1 << 30)


@pytest.mark.parametrize("size", [0, -1, 1 << 19, 1 << 31, 3 << 20, 16 * 1000 * 1000])
def test_illegal_segment_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="not a WAL segment size"):
        wal_name.segment_number(0, size)


def test_a_history_file_belongs_to_no_segment() -> None:
    with pytest.raises(ValueError, match="belongs to no segment"):
        wal_name.segment_of("00000002.history", 1 << 20)
    with pytest.raises(ValueError, match="belongs to no segment"):
        _ = parse_wal_name("00000002.history").segment


@pytest.mark.parametrize("size_mb", [1, 16, 64])
def test_the_server_gives_the_same_names(
    server_factory: ServerFactory, server_tmp: Path, size_mb: int
) -> None:
    pgdata = initdb(server_factory.installation, server_tmp / "data", wal_segsize_mb=size_mb)
    server = server_factory.adopt(pgdata).start()
    size = size_mb << 20
    # Inside segments only: at a boundary, PostgreSQL 17 changed the function's answer.
    samples = [size + 1, 5 * size - 1, (1 << 32) + 40, (1 << 40) + 3 * size // 2, (1 << 63) + 7]
    printed = server.psql(
        ";".join(
            f"SELECT file_name || ' ' || file_offset FROM pg_walfile_name_offset('{Lsn(lsn)}')"
            for lsn in samples
        )
    )
    ours = [
        f"{wal_name.segment_name(1, wal_name.segment_number(lsn, size), size)} {lsn % size}"
        for lsn in samples
    ]
    assert printed.splitlines() == ours
