"""One failure at one call: the command gets over it or says what is wrong, and either is true.

By default a sample is run of each pair of command and failure; FULL_MATRIX=1 runs all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pgkeep.storage.faults import PASSING, POSSIBLE, Failure, Fault, random_faults
from tests.matrix.calls import Call, chosen, sampled
from tests.matrix.rows import HIDING, ROWS, Row, Stages
from tests.matrix.stage import Outcome, Stage

_SAMPLE = 6
_MOST_SECONDS = 700.0
_FAILURES = [failure for failure in Failure if any(failure in some for some in POSSIBLE.values())]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def open_stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(tmp_path_factory.mktemp("open"), sealed=False)


@pytest.fixture(scope="module")
def clean_runs(
    stages: Stages, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Outcome, list[Call]]]:
    """How each command ends on a sound store, and what it asks of it."""
    return {
        row.name: row.clean(stages, tmp_path_factory.mktemp("clean") / row.name) for row in ROWS
    }


@pytest.mark.parametrize("failure", _FAILURES, ids=lambda failure: failure.name.lower())
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_failure_at_any_call(
    row: Row,
    failure: Failure,
    stages: Stages,
    clean_runs: dict[str, tuple[Outcome, list[Call]]],
    tmp_path: Path,
) -> None:
    _try_calls(row, failure, stages, clean_runs[row.name], tmp_path)


@pytest.mark.parametrize("failure", [Failure.TRUNCATED, Failure.FLIPPED], ids=lambda f: f.name)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_spoilt_reads_of_a_repository_that_is_not_encrypted(
    row: Row, failure: Failure, open_stages: Stages, tmp_path: Path
) -> None:
    """No authentication finds them there, only hashes and checksums."""
    clean = row.clean(open_stages, tmp_path / "clean")
    _try_calls(row, failure, open_stages, clean, tmp_path)


def _try_calls(
    row: Row, failure: Failure, stages: Stages, clean: tuple[Outcome, list[Call]], root: Path
) -> None:
    problems: list[str] = []
    for number, call in enumerate(chosen(clean[1], failure, row=row.name, most=_SAMPLE)):
        stage = row.begin(stages, root / str(number))
        try:
            _try(row, stage, call, failure, clean[0])
        except Exception as error:
            problems.append(f"{failure.name} at {call}: {type(error).__name__}: {error}")
    assert not problems, "\n\n".join(problems)


def _try(row: Row, stage: Stage, call: Call, failure: Failure, clean: Outcome) -> None:
    stage.store.fail(call.fault(failure))
    outcome = row.run(stage)
    stage.store.heal()
    listed = stage.check()
    if outcome.code == row.success:
        row.promise(stage, outcome)
        _compare(row, outcome, clean, failure)
    else:
        assert failure not in PASSING, outcome.said
        assert any(outcome.code in codes for codes in row.failing_codes), outcome.said
        assert _names(outcome, call), outcome.said
    again = row.run(stage)
    assert again.code == row.success, f"{outcome.said}\nand then\n{again.said}"
    row.promise(stage, again)
    assert {*listed} <= {*stage.check()}


@pytest.mark.parametrize("last", [Failure.UNAVAILABLE, Failure.LOST_ANSWER])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_store_that_goes_away_for_good(
    row: Row,
    last: Failure,
    stages: Stages,
    clean_runs: dict[str, tuple[Outcome, list[Call]]],
    tmp_path: Path,
) -> None:
    """As for the store, the command is killed at that call: nothing that comes after it happens."""
    count = len(clean_runs[row.name][1])
    for at in sampled(range(count), row=f"{row.name} {last.name}", most=_SAMPLE):
        stage = row.begin(stages, tmp_path / str(at))
        stage.store.fail(Fault(last, skip=at))
        stage.store.fail(Fault(Failure.UNAVAILABLE, skip=at + 1, times=None))
        outcome = row.run(stage)
        stage.store.heal()
        listed = stage.check()
        if outcome.code == row.success:
            row.promise(stage, outcome)  # what was left to do was clearing up
        else:
            assert outcome.code == (200 if row.name.startswith("wal-fetch") else 46), outcome.said
        assert stage.slept < _MOST_SECONDS, "it waited for each call anew"
        again = row.run(stage)
        assert again.code == row.success, f"after call {at}: {outcome.said}\nand then\n{again.said}"
        row.promise(stage, again)
        assert {*listed} <= {*stage.check()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_many_failures_that_pass(
    row: Row,
    seed: int,
    stages: Stages,
    clean_runs: dict[str, tuple[Outcome, list[Call]]],
    tmp_path: Path,
) -> None:
    clean, calls = clean_runs[row.name]
    stage = row.begin(stages, tmp_path / "stage")
    # The two that the server calls try all of a run again, and not each call.
    count = 2 if row.name.startswith("wal-") else len(calls) // 2
    for fault in random_faults(seed, count=count, failures=PASSING, within=len(calls)):
        stage.store.fail(fault._replace(seconds=fault.failure is Failure.SLOW))
    outcome = row.run(stage)
    assert outcome.code == row.success, outcome.said
    stage.store.heal()
    row.promise(stage, outcome)
    _compare(row, outcome, clean, Failure.UNAVAILABLE)
    stage.check()


def _names(outcome: Outcome, call: Call) -> bool:
    """Whether a person learns which store or object it was about."""
    pattern = re.escape(call.key).replace(r"\*", ".*")
    return bool("memory://stage" in outcome.said or re.search(pattern, outcome.said))


def _compare(row: Row, outcome: Outcome, clean: Outcome, failure: Failure) -> None:
    """What is said is what a sound store would have had us say, or less where it hides things."""
    for member in row.shows:
        if failure in HIDING:
            _claims_no_more(member, outcome.document[member], clean.document[member])
        else:
            assert outcome.document[member] == clean.document[member], member


def _claims_no_more(member: str, said: Any, true: Any) -> None:
    if member == "backups":
        known = [backup["backup"] for backup in true]
        assert all(backup["backup"] in known for backup in said)
    if member == "windows":
        assert all(window["to"] <= max(one["to"] for one in true) for window in said)
    if member in ("backup", "restorable_to") and said is not None:
        assert said <= true
