"""A target says exactly one moment, or is refused with an example of how to write it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgkeep.errors import UsageError
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import render_target_value
from pgkeep.restore import target


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is in a zone with summer time."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20 14:03:07+01:00",
        "2026-11-20 14:03:07+01",
        "2026-11-20T13:03:07Z",
        "2026-11-20 13:03:07 UTC",
        "2026-11-20 14:03:07.000+0100",
        "20261120T130307Z",
    ],
)
def test_a_moment_with_a_zone_is_that_moment(text: str) -> None:
    moment, note = target.parse_moment(text)
    assert moment == datetime(2026, 11, 20, 13, 3, 7, tzinfo=UTC)
    assert note is None


def test_a_moment_without_a_zone_is_in_the_users_and_the_plan_says_so(berlin: None) -> None:
    moment, note = target.parse_moment("2026-11-20 14:03:07")
    assert moment == datetime(2026, 11, 20, 14, 3, 7, tzinfo=timezone(timedelta(hours=1)))
    assert note is not None
    assert "CET (UTC+01:00)" in note


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("2026-11-20", "date without a time"),
        ("14:03:07", "not a moment"),
        ("yesterday", "not a moment"),
        ("2026-11-20 14:03 CET", "may mean several"),
        ("2026-11-20 14:03+01:00 UTC", "not a moment"),
        ("2026-03-29 02:30:00", "does not exist"),
        ("2026-10-25 02:30:00", "happened twice"),
    ],
)
def test_what_is_no_definite_moment_is_refused_with_an_example(
    berlin: None, text: str, what: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        target.parse_moment(text)
    assert caught.value.exit_code == 2
    assert "+01:00" in str(caught.value.remedy)


def test_other_targets_are_checked_too() -> None:
    assert target.at_lsn("16/B374D848", inclusive=False).target.value == Lsn.parse("16/B374D848")
    assert target.at_xid("731", inclusive=True).target.value == 731
    assert target.at_name("before the move").target.value == "before the move"
    wrong_ones: list[Callable[[], object]] = [
        lambda: target.at_lsn("0/0", inclusive=True),
        lambda: target.at_lsn("16B374D848", inclusive=True),
        lambda: target.at_xid("2", inclusive=True),
        lambda: target.at_xid("x", inclusive=True),
        lambda: target.at_name(""),
        lambda: target.at_name("x" * 64),
    ]
    for wrong in wrong_ones:
        with pytest.raises(UsageError):
            wrong()


def test_a_moment_is_written_in_utc_whatever_the_servers_zone() -> None:
    asked = target.at_time("2026-11-20 14:03:07.5+01:00", inclusive=True)
    assert render_target_value(asked.target) == "2026-11-20 13:03:07.500000+00"
