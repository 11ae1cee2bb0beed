"""Verify calls damaged what is damaged, and not what expires while it is looked at."""

from __future__ import annotations

import pytest

from pgkeep.dump.check import DumpCheck, DumpCheckOptions, check_dumps
from pgkeep.progress import Silent
from pgkeep.repository.dump_record import GLOBALS
from pgkeep.repository.dumps import delete_dumps
from pgkeep.repository.identity import Repository
from tests.dump.made_up import LAYOUT, place, put, two


def check(repository: Repository, level: str) -> DumpCheck:
    return check_dumps(repository, LAYOUT, DumpCheckOptions(level, {}), progress=Silent())


@pytest.mark.parametrize("level", ["quick", "scrub"])
def test_a_dump_that_is_deleted_at_any_step_of_a_check_is_not_damaged(level: str) -> None:
    step = 0
    while True:
        step += 1
        repository, _ = two()
        old, new = put(2, repository, kind=GLOBALS), put(1, repository, kind=GLOBALS)
        calls: list[str] = []

        def delete(
            method: str,
            key: str,
            calls: list[str] = calls,
            step: int = step,
            repository: Repository = repository,
            old: str = old,
        ) -> None:
            calls.append(key)
            if len(calls) == step:
                delete_dumps(repository.store, LAYOUT, [old])

        place(repository).before = delete
        found = check(repository, level)
        assert found.problems == [], f"step {step}"
        assert found.dumps in (1, 2)
        if level == "scrub":
            assert new in found.read
        if len(calls) < step:
            break
    assert step > 3


def test_a_part_that_a_listed_dump_lacks_is_a_problem_all_the_same() -> None:
    repository, _ = two()
    name = put(1, repository, kind=GLOBALS)
    repository.store.delete([LAYOUT.dump(name) + "postgres.dump.00002"])
    for level in ("quick", "scrub"):
        found = check(repository, level)
        assert [(what, dump) for _, what, dump in found.problems] == [("it is missing", name)]
