"""Labels and tablespace maps are read as the server wrote them, whatever the paths hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import BrokenServerFile
from pgkeep.postgres.label import (
    TablespaceLink,
    format_tablespace_map,
    parse_backup_label,
    parse_tablespace_map,
)
from pgkeep.postgres.lsn import Lsn

LABEL = b"""START WAL LOCATION: 0/9000028 (file 000000010000000000000009)
CHECKPOINT LOCATION: 0/9000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-20 18:56:22 UTC
LABEL: nightly: all of it
START TIMELINE: 1
"""
HISTORY = LABEL.replace(
    b"CHECKPOINT", b"STOP WAL LOCATION: 0/9000100 (file 000000010000000000000009)\nCHECKPOINT"
) + (b"STOP TIME: 2026-11-20 18:57:22 UTC\nSTOP TIMELINE: 1\n")

locations = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40
)
links = st.lists(st.builds(TablespaceLink, st.integers(1, 0xFFFFFFFF), locations), max_size=5)


def test_a_label_is_read() -> None:
    label = parse_backup_label(LABEL)
    assert label.start_lsn == Lsn.parse("0/9000028")
    assert label.start_segment == "000000010000000000000009"
    assert label.checkpoint_lsn == Lsn.parse("0/9000060")
    assert label.label == "nightly: all of it"
    assert (label.timeline, label.from_standby, label.stop_lsn) == (1, False, None)


def test_a_backup_history_file_adds_where_it_stopped() -> None:
    label = parse_backup_label(HISTORY)
    assert (label.stop_lsn, label.stop_timeline) == (Lsn.parse("0/9000100"), 1)
    assert label.stop_time == "2026-11-20 18:57:22 UTC"


def test_one_of_the_servers_own_incrementals_is_recognised() -> None:
    label = parse_backup_label(
        LABEL + b"INCREMENTAL FROM LSN: 0/7000028\nINCREMENTAL FROM TLI: 1\n"
    )
    assert (label.incremental_from_lsn, label.incremental_from_timeline) == (0x7000028, 1)


@pytest.mark.parametrize("line", LABEL.splitlines()[:4] + LABEL.splitlines()[6:])
def test_a_label_that_lacks_a_line_is_refused(line: bytes) -> None:
    with pytest.raises(BrokenServerFile, match="is missing"):
        parse_backup_label(LABEL.replace(line + b"\n", b""))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"0/9000028", b"0/G"),
        (b"(file 000000010000000000000009)", b""),
        (b"START TIMELINE: 1", b"START TIMELINE: x"),
        (b"START TIMELINE: 1", b"START TIMELINE: 0"),
    ],
)
def test_a_malformed_label_is_refused(good: bytes, bad: bytes) -> None:
    with pytest.raises(BrokenServerFile):
        parse_backup_label(LABEL.replace(good, bad))


@given(links)
def test_a_map_survives_writing_and_reading(written: list[TablespaceLink]) -> None:
    assert parse_tablespace_map(format_tablespace_map(written)) == tuple(written)


def test_a_path_that_is_no_text_survives() -> None:
    (link,) = parse_tablespace_map(b"16400 /data/\xff\\\nx\\\\y\n")
    assert format_tablespace_map([link]) == b"16400 /data/\xff\\\nx\\\\y\n"


@pytest.mark.parametrize("data", [b"16400\n", b"x /a\n", b"16400 \n", b"16400 /a", b"16400 /a\\"])
def test_a_malformed_map_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenServerFile):
        parse_tablespace_map(data)


def test_no_map_means_no_tablespaces() -> None:
    assert parse_tablespace_map(b"") == ()
