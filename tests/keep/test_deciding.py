"""Which backups are kept, and why; what somebody forged or copied takes nothing away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgkeep.config.keeping import KeepPolicy, parse_policy
from pgkeep.keep.deciding import Candidate, Decision, decide
from pgkeep.postgres.history import Ancestor, TimelineHistory
from pgkeep.postgres.lsn import Lsn, Timeline

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST = TimelineHistory.of_first()


def backup(age_days: float, **changes: Any) -> Candidate:
    """One that ended and was stored so many days ago."""
    moment = NOW - age_days * DAY
    position = Lsn(int((1000 - age_days) * (1 << 24)))
    made = Candidate(
        f"{moment:%Y%m%dT%H%M%SZ}", 1, position, Lsn(position + 1000), moment, moment, True
    )
    return made._replace(**changes)


def kept(candidates: list[Candidate], policy: str, **options: Any) -> list[float]:
    """The ages in days of those that are kept."""
    found = decisions(candidates, policy, **options)
    ages = {one.id: round((NOW - one.stored) / DAY, 1) for one in candidates}
    return sorted(ages[name] for name, decision in found.items() if decision.is_kept)


def decisions(candidates: list[Candidate], policy: str, **options: Any) -> dict[str, Decision]:
    wanted = {"now": NOW, "timelines": [FIRST], **options}
    return {one.backup: one for one in decide(candidates, parse_policy(policy), **wanted)}


def daily(days: int) -> list[Candidate]:
    return [backup(age + 0.5) for age in range(days)]


def test_a_window_keeps_what_is_in_it_and_the_one_that_it_begins_with() -> None:
    assert kept(daily(20), "7 days") == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]


def test_a_least_number_is_kept_however_old() -> None:
    old = [backup(100), backup(200), backup(300)]
    assert kept(old, "7 days, 2 backups") == [100, 200]


def test_the_newest_good_one_is_always_kept_and_wal_from_it() -> None:
    (only,) = decisions([backup(100)], "1 days").values()
    assert only.is_kept
    assert only.is_base


def test_periods_keep_the_last_of_each() -> None:
    found = decisions(daily(100), "1 days, 3 daily, 2 weekly, 2 monthly, 2 yearly")
    reasons = {
        why: decision.backup
        for decision in found.values()
        for why in decision.why
        if why.startswith(("daily", "weekly", "monthly", "yearly"))
    }
    assert reasons == {
        "daily, 2026-11-26": "20261126T000000Z",
        "daily, 2026-11-25": "20261125T000000Z",
        "daily, 2026-11-24": "20261124T000000Z",
        "weekly, 2026-W48": "20261126T000000Z",
        "weekly, 2026-W47": "20261122T000000Z",
        "monthly, 2026-11": "20261126T000000Z",
        "monthly, 2026-10": "20261031T000000Z",
        "yearly, 2026": "20261126T000000Z",
    }


def test_what_is_not_good_counts_for_nothing_but_is_kept_within_the_window() -> None:
    bad = [replace_good(backup(age)) for age in (1, 8, 9)]
    assert kept([*bad, backup(20), backup(30)], "7 days, 1 backups") == [1, 20]
    assert kept(bad, "7 days") == [1, 8, 9]  # as long as none is good, nothing is given up


def replace_good(candidate: Candidate) -> Candidate:
    return candidate._replace(is_good=False)


def test_a_held_one_is_kept() -> None:
    assert kept([backup(1), backup(50, held="audit"), backup(60)], "1 days") == [1, 50]


def test_each_timeline_that_lives_has_its_window() -> None:
    second = TimelineHistory(
        Timeline(2),
        (Ancestor(Timeline(1), Lsn(0), Lsn(20 << 24)), Ancestor(Timeline(2), Lsn(20 << 24), None)),
    )
    on_first = [
        backup(12)._replace(id="a", start_lsn=Lsn(10 << 24), stop_lsn=Lsn(11 << 24)),
        backup(9)._replace(id="b", start_lsn=Lsn(30 << 24), stop_lsn=Lsn(31 << 24)),
    ]
    on_second = [
        backup(8, timeline=2)._replace(id="c", start_lsn=Lsn(40 << 24), stop_lsn=Lsn(41 << 24))
    ]
    both = [*on_first, *on_second]
    found = decisions(both, "7 days, 1 backups", timelines=[FIRST, second])
    assert {name for name, one in found.items() if one.is_kept} == {"b", "c"}
    alone = decisions(both, "7 days, 1 backups", timelines=[second])
    assert {name for name, one in alone.items() if one.is_kept} == {"c"}


def test_a_system_whose_successor_covers_the_window_keeps_no_base() -> None:
    assert kept([backup(10), backup(40)], "7 days, 2 backups, 1 monthly", superseded=True) == [10]
    assert kept([backup(10), backup(40)], "7 days, 2 backups", superseded=True) == []


HONEST = daily(40)
POLICIES = ("7 days", "3 days, 4 backups", "2 days, 10 daily, 4 weekly, 3 monthly")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "forged",
    [
        # From the future, all over the past, and on the days of the true ones, at their very end.
        [backup(0.1, ended=NOW + age * DAY, id=f"future{age}") for age in range(1, 400, 9)],
        [backup(0.1, ended=NOW - age * DAY, id=f"past{age}") for age in range(1, 400)],
        [
            backup(0.1, ended=one.ended.replace(hour=23, minute=59), id=f"late{number}")
            for number, one in enumerate(HONEST)
        ],
    ],
    ids=["future", "past", "same days"],
)
def test_a_forged_or_copied_backup_takes_nothing_away(policy: str, forged: list[Candidate]) -> None:
    without = decisions(HONEST, policy)
    with_them = decisions([*HONEST, *forged], policy)
    for name, decision in without.items():
        assert with_them[name].is_kept >= decision.is_kept, (name, decision)
        assert with_them[name].is_base >= decision.is_base, (name, decision)


def test_a_forged_backup_does_not_stay_for_ever() -> None:
    ends = (NOW + 3000 * DAY, NOW - 900 * DAY)
    forged = [backup(60, ended=ended, id=f"forged{ended:%Y}") for ended in ends]
    assert kept([*HONEST, *forged], "7 days") == kept(HONEST, "7 days")


def test_a_clock_that_was_put_back_makes_the_newest_look_old_and_it_is_kept() -> None:
    before = backup(1)
    after = backup(0.9, ended=before.ended - timedelta(hours=1), id="after")
    found = decisions([before, after], "0 days, 1 backups")
    assert found["after"].is_kept
    assert found["after"].is_base


@pytest.mark.parametrize("years", [-5, 3])
def test_a_clock_that_is_wrong_by_years_does_not_cost_the_last_backup(years: int) -> None:
    wrong = backup(0.9, ended=NOW + years * 365 * DAY, id="wrong")
    before = decisions([backup(1)], "0 days, 1 backups")
    found = decisions([backup(1), wrong], "0 days, 1 backups")
    assert found["wrong"].is_kept
    assert found["wrong"].is_base
    assert all(found[name].is_kept for name, one in before.items() if one.is_kept)
    after = decisions([backup(1), wrong, backup(0.5)], "0 days, 1 backups")
    assert not after["wrong"].is_kept


def test_a_sentence_is_read_as_it_is_written() -> None:
    assert parse_policy("7 days, 2 backups") == KeepPolicy()
    assert parse_policy(str(KeepPolicy(3, 1, 2, 0, 5, 0))) == KeepPolicy(3, 1, 2, 0, 5, 0)
    assert parse_policy("14 daily") == KeepPolicy(days=0, backups=1, daily=14)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", "is not understood"),
        ("7 weeks", "is not understood"),
        ("7 days, 3 days", "said twice"),
        ("", "must say what"),
        ("0 days", "must say what"),
        ("-1 days", "is not understood"),
        ("1000000 daily", "more than anybody"),
    ],
)
def test_a_sentence_that_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_policy(text)
