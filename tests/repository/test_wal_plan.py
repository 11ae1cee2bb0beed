"""A plan survives its way through a command line, and names exactly what it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import UsageError
from pgkeep.postgres.wal_name import history_name, segment_name, segment_of
from pgkeep.repository.wal_plan import SegmentRange, WalPlan

SIZES = [1 << power for power in range(20, 31)]


@st.composite
def plans(draw: st.DrawFn) -> tuple[WalPlan, int]:
    size = draw(st.sampled_from(SIZES))
    ranges, histories = [], []
    for timeline in draw(st.lists(st.integers(1, 0xFFFFFFFF), max_size=4, unique=True)):
        first = draw(st.integers(0, 10_000))
        last = first + draw(st.integers(0, 600))
        names = [segment_name(timeline, number, size) for number in (first, last)]
        ranges.append(SegmentRange(*names))
        histories.append(history_name(timeline))
    return WalPlan(tuple(ranges), tuple(histories)), size


@given(plans())
def test_a_plan_reads_as_it_was_written(given: tuple[WalPlan, int]) -> None:
    plan, _ = given
    assert WalPlan.parse(str(plan)) == plan


@given(plans())
def test_a_plan_names_what_lies_in_its_ranges_and_nothing_else(given: tuple[WalPlan, int]) -> None:
    plan, size = given
    listed = list(plan.segments(size))
    assert all(plan.names(name) for name in (*listed, *plan.histories))
    for part in plan.ranges:
        timeline = int(part.first[:8], 16)
        before, after = segment_of(part.first, size) - 1, segment_of(part.last, size) + 1
        for number in (before, after):
            if number >= 0:
                assert not plan.names(segment_name(timeline, number, size))
        assert not plan.names(part.first + ".partial")
        expected = range(segment_of(part.first, size), segment_of(part.last, size) + 1)
        assert [segment_name(timeline, number, size) for number in expected] == [
            name for name in listed if name in part
        ]


def test_an_empty_plan_names_nothing() -> None:
    assert WalPlan.parse("") == WalPlan()
    assert not WalPlan().names("000000010000000000000001")


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "000000010000000000000002-000000010000000000000001",
        "000000010000000000000001-000000020000000000000002",
        "000000010000000000000001.partial",
        "000000010000000000000001-",
        "1.history",
        "00000000.history",
    ],
)
def test_a_malformed_plan_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        WalPlan.parse(text)


def test_beyond_where_a_timeline_was_left_nothing_is_given() -> None:
    plan = WalPlan.parse(
        "000000010000000000000001-000000010000000000000004,00000003.history,"
        "000000030000000000000004-000000030000000000000006"
    )
    assert plan.forbids("000000010000000000000005")
    assert plan.forbids("000000020000000000000004")
    assert plan.forbids("000000040000000000000006")
    assert not plan.forbids("000000010000000000000004")
    assert not plan.forbids("000000030000000000000007")
    assert not plan.forbids("00000004.history")
    assert not WalPlan().forbids("000000010000000000000005")
