"""A history file is read as strictly as the server reads it, and means the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import BrokenServerFile
from pgkeep.postgres.history import Ancestor, TimelineHistory, parse_history
from pgkeep.postgres.lsn import Lsn

entries = st.lists(
    st.tuples(st.integers(1, 1 << 16), st.integers(1, 1 << 40)),
    max_size=8,
    unique_by=(lambda entry: entry[0], lambda entry: entry[1]),
)


def written(parents: list[tuple[int, int]]) -> bytes:
    return "".join(
        f"{tli}\t{Lsn(lsn)}\tno recovery target specified\n" for tli, lsn in parents
    ).encode()


@given(entries)
def test_an_ascending_history_is_kept_as_it_is(parents: list[tuple[int, int]]) -> None:
    timelines = sorted(tli for tli, _ in parents)
    switches = sorted(lsn for _, lsn in parents)
    own = max(timelines, default=0) + 1
    history = parse_history(written(list(zip(timelines, switches, strict=True))), own)
    begins = [0, *switches]
    ends = [*switches, None]
    assert history.ancestors == tuple(zip([*timelines, own], begins, ends, strict=True))
    for tli, switch in zip(timelines, switches, strict=True):
        assert history.switch_point(tli) == switch
    assert history.switch_point(own) is None


@given(entries, st.integers(0, 1 << 41))
def test_every_position_has_the_timeline_that_the_server_would_name(
    parents: list[tuple[int, int]], lsn: int
) -> None:
    """``tliOfPointInHistory``: the newest entry with begin <= lsn < end, unclipped."""
    ordered = sorted(parents)
    own = max((tli for tli, _ in ordered), default=0) + 1
    history = parse_history(written(ordered), own)
    begins = [0, *(switch for _, switch in ordered)]
    expected = next(
        tli
        for (tli, end), begin in reversed(
            list(zip([*ordered, (own, 1 << 64)], begins, strict=True))
        )
        if begin <= lsn < end
    )
    assert history.timeline_at(lsn) == expected


@given(entries)
def test_the_stretches_cover_the_whole_past_without_overlap(parents: list[tuple[int, int]]) -> None:
    ordered = sorted(parents)
    history = parse_history(written(ordered), max((t for t, _ in ordered), default=0) + 1)
    position = 0
    for stretch in history.ancestors[:-1]:
        assert stretch.begin == position
        assert stretch.end is not None
        assert stretch.end > stretch.begin
        position = stretch.end
    assert history.ancestors[-1] == (history.timeline, position, None)


def test_a_parent_left_before_it_was_entered_contributes_nothing() -> None:
    history = parse_history(b"1\t0/5000000\tfirst\n2\t0/4000000\tback\n", 3)
    assert history.ancestors == (
        Ancestor(history.ancestors[0].timeline, Lsn(0), Lsn(0x4000000)),
        Ancestor(history.timeline, Lsn(0x4000000), None),
    )
    assert not history.contains(1, 0x4000001)
    assert not history.contains(2, 0x4800000)
    assert history.contains(1, 0x4000000)
    with pytest.raises(KeyError):
        history.switch_point(2)


def test_comments_empty_lines_and_reasons_of_any_bytes_are_skipped() -> None:
    text = b"# note\n\n   # more\n1\t0/3000000\tbefore 2026-11-20 \xff\xfe\tx\n \n"
    assert parse_history(text, 2).switch_point(1) == 0x3000000
    assert parse_history(b"1\t0/3000000", 2).switch_point(1) == 0x3000000


def test_timeline_one_has_no_past() -> None:
    assert parse_history(b"", 1) == TimelineHistory.of_first()
    assert TimelineHistory.of_first().contains(1, 12345)
    assert not TimelineHistory.of_first().contains(2, 12345)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"x\t0/1\tr\n", "numeric timeline"),
        (b"-1\t0/1\tr\n", "numeric timeline"),
        (b"0\t0/1\tr\n", "numeric timeline"),
        (b"4294967297\t0/1\tr\n", "numeric timeline"),
        (b"\xd9\xa1\t0/1\tr\n", "numeric timeline"),
        (b"1\n", "position where the timeline was left"),
        (b"1\tnowhere\n", "position where the timeline was left"),
        (b"1\t0/\n", "position where the timeline was left"),
        (b"2\t0/1\tr\n2\t0/2\tr\n", "increasing sequence"),
        (b"2\t0/1\tr\n1\t0/2\tr\n", "increasing sequence"),
        (b"9\t0/1\tr\n", "lower numbers than the timeline itself"),
        (b"10\t0/1\tr\n", "lower numbers than the timeline itself"),
    ],
)
def test_what_the_server_refuses_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(BrokenServerFile, match=why) as refused:
        parse_history(text, 9)
    assert refused.value.remedy
