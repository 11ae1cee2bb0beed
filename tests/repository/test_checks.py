"""What checks found is forgotten only for a reason, and one record is enough to know it all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgkeep.repository.check_records import read_checks, read_pass, record_check
from pgkeep.repository.checks import DEEP, QUICK, SCRUB, Check, CheckHistory, Finding, Pass
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import numbered
from pgkeep.repository.sealed_record import build_sealed_record
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, BY, LAYOUT, make_repository

A, B, C = (f"{LAYOUT.packs}{'ab' * 16}/{number:08d}" for number in (1, 2, 3))
LATER = "2026-11-21T12:00:00.000000Z"
ROTTEN, TORN = Finding(SCRUB, "rotten"), Finding(DEEP, "torn")


def history(*checks: Check) -> CheckHistory:
    found = CheckHistory()
    for check in checks:
        found = found.after(check)
    return found


def check(kind: str, **members: object) -> Check:
    return Check(kind, AT, **members)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("later", "left"),
    [
        (check(QUICK), {A, B}),
        (check(SCRUB), {B}),
        (check(SCRUB, after=A), {A, B}),
        (check(SCRUB, until=A), {B}),
        (check(DEEP, until=A), {B}),
        (check(DEEP), set()),
        (check(DEEP, catalogue=False), {A, B}),
        (check(SCRUB, bad={A: ROTTEN}), {A, B}),
        (check(QUICK, again=(B,)), {A}),
    ],
)
def test_a_finding_holds_until_a_check_that_sees_as_much_saw_otherwise(
    later: Check, left: set[str]
) -> None:
    found = history(check(DEEP, bad={A: ROTTEN, B: TORN}), later)
    assert set(found.bad) == left


def test_what_a_deep_check_found_stays_of_its_level_when_a_scrub_finds_more() -> None:
    found = history(check(DEEP, bad={A: TORN}), check(SCRUB, bad={A: ROTTEN}), check(SCRUB))
    assert found.bad == {A: Finding(DEEP, "rotten")}


def test_what_is_only_missing_is_not_remembered() -> None:
    assert not history(check(QUICK, bad={A: Finding(QUICK, "is missing")})).bad


def test_a_backup_is_broken_until_a_check_that_knows_the_catalogue_says_otherwise() -> None:
    proved = Check(DEEP, AT, backups=("one", "two"))
    broken = Check(SCRUB, LATER, bad={A: ROTTEN}, broken=("one",))
    found = history(proved, broken)
    assert found.of_backup("one") == (SCRUB, LATER, False)
    assert found.of_backup("two") == (DEEP, AT, True)
    assert found.of_backup("three") is None
    blind = replace(proved, catalogue=False, backups=())
    assert found.after(blind).of_backup("one") == (SCRUB, LATER, False)
    assert found.after(check(QUICK, again=(A,))).of_backup("one") == (DEEP, AT, True)


def test_the_highest_level_counts_and_of_it_the_newest() -> None:
    found = history(
        Check(DEEP, AT, backups=("one",)),
        Check(DEEP, LATER, backups=("one",)),
        Check(QUICK, LATER, backups=("one",)),
    )
    assert found.of_backup("one") == (DEEP, LATER, True)


def test_a_pass_keeps_its_candidates_through_a_part_that_does_not_know_backups() -> None:
    first = check(SCRUB, until=A, round_began=AT, candidates=("one",))
    blind = check(SCRUB, after=A, until=B, round_began=AT, catalogue=False)
    assert history(first, blind).passes == {SCRUB: Pass(AT, B, ("one",))}
    other = replace(blind, round_began=LATER)
    assert history(first, other).passes == {SCRUB: Pass(LATER, B, None)}


def test_of_two_repositories_the_one_that_proved_a_backup_counts() -> None:
    """Read as one they restore it; what neither has proved is as broken as one of them says."""
    here = history(
        Check(DEEP, AT, backups=("one", "two", "three")),
        Check(SCRUB, LATER, bad={A: ROTTEN}, broken=("one", "two", "three")),
    )
    there = history(
        Check(QUICK, AT, backups=("one",)),
        Check(DEEP, AT, backups=("three",)),
        Check(QUICK, LATER, backups=("one",), broken=("three",)),
    )
    for both in (here.beside(there), there.beside(here)):
        assert both.of_backup("one") == (QUICK, LATER, True)
        assert both.of_backup("two") == (SCRUB, LATER, False)
        verdict = both.of_backup("three")
        assert verdict is not None
        assert not verdict.is_good
        assert both.bad == {A: ROTTEN}


# -- as records ---------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    store = FaultyStore(MemoryStore())
    return make_repository(tmp_path, sealed=request.param, store=store)[0]


def record(repository: Repository, *checks: Check, known: tuple[str, ...] = ("one",)) -> None:
    for one in checks:
        record_check(repository, LAYOUT, one, by=BY, known=known)


def gets(repository: Repository) -> int:
    store = repository.store
    assert isinstance(store, FaultyStore)
    return store.count("get", f"{LAYOUT.checks}*")


def test_one_record_is_read_however_many_there_are(repository: Repository) -> None:
    first = check(
        DEEP,
        bad={A: TORN, B: Finding(DEEP, "flawed", is_flaw=True)},
        until=B,
        round_began=AT,
        candidates=("one",),
        stopped=True,
        broken=("one",),
    )
    record(repository, first, *[check(QUICK, backups=("two",), broken=("one",))] * 20)
    before = gets(repository)
    found = read_checks(repository, LAYOUT)
    assert gets(repository) == before + 1
    assert found.bad == {A: TORN, B: Finding(DEEP, "flawed", is_flaw=True)}
    assert found.passes == {DEEP: Pass(AT, B, ("one",), stopped=True)}
    assert found.of_backup("one") == (QUICK, AT, False)
    assert found.of_backup("two") == (QUICK, AT, True)


def test_backups_that_are_gone_are_carried_no_further(repository: Repository) -> None:
    record(repository, check(DEEP, backups=("one", "gone")), check(QUICK, backups=("one",)))
    assert set(read_checks(repository, LAYOUT).proved) == {"one"}


def test_records_of_before_are_read_back_to_the_first(repository: Repository) -> None:
    """What they found themselves is all that they say."""
    for number, (kind, bad, backups, broken) in enumerate(
        [
            ("deep", [], ["one", "two"], []),
            ("scrub", [{"key": A, "result": "bad", "text": "rotten"}], ["two"], ["one"]),
            ("quick", [], ["two"], []),
        ],
        start=1,
    ):
        key = numbered(LAYOUT.checks, number)
        details = {
            "after": "",
            "until": None,
            "round_began": AT,
            "backups": backups,
            "broken": broken,
            "read_objects": 1,
            "read_bytes": 1,
        }
        members = {
            "backup": None,
            "kind": kind,
            "result": "bad" if bad else "good",
            "seconds": 1.0,
            "objects": bad,
            "details": details,
        }
        data = build_sealed_record(repository.keyring, key, members, at=AT, by=BY)
        repository.store.put(key, data)
    found = read_checks(repository, LAYOUT)
    assert found.bad == {A: ROTTEN}
    assert found.of_backup("one") == (SCRUB, AT, False)
    assert found.of_backup("two") == (DEEP, AT, True)
    record(repository, check(QUICK, broken=("one",)))
    before = gets(repository)
    assert read_checks(repository, LAYOUT).bad == {A: ROTTEN}
    assert gets(repository) == before + 1


def test_a_check_that_ended_meanwhile_is_not_forgotten(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: the later record knows what the earlier one found, which began later."""
    done: list[bool] = []

    def overtaken(*args: Any, **options: Any) -> bytes:
        if not done:
            done.append(True)
            record(repository, check(SCRUB, bad={A: ROTTEN}))
        return build_sealed_record(*args, **options)

    monkeypatch.setattr("pgkeep.repository.check_records.build_sealed_record", overtaken)
    record(repository, check(SCRUB, after=A, bad={B: ROTTEN}))
    assert set(read_checks(repository, LAYOUT).bad) == {A, B}


def test_a_damaged_record_is_passed_over(repository: Repository) -> None:
    record(repository, check(SCRUB, bad={A: ROTTEN}), check(QUICK))
    repository.store.put(numbered(LAYOUT.checks, 2), b"PGKEEP broken")
    assert set(read_checks(repository, LAYOUT).bad) == {A}


def test_where_a_pass_stands_can_be_read_without_any_key(repository: Repository) -> None:
    public = repository.keyring
    stranger = repository._replace(
        keyring=Keyring(
            public.repository_id,
            repository_public=public.repository_public,
            metadata_public=public.metadata_public,
        )
    )
    assert read_pass(stranger, LAYOUT, SCRUB) is None
    record(stranger, check(SCRUB, until=B, round_began=AT, stopped=True, catalogue=False))
    record(repository, check(DEEP, until=C, round_began=LATER), check(QUICK))
    assert read_pass(stranger, LAYOUT, SCRUB) == Pass(AT, B, None, stopped=True)
    assert read_pass(stranger, LAYOUT, DEEP) == Pass(LATER, C, None)
    assert read_checks(repository, LAYOUT).passes[SCRUB] == Pass(AT, B, None, stopped=True)
