"""The same with a real server: one failure at a random call of a backup, and of a restore.

What the cheap rows show of files, these show of PostgreSQL: what is listed recovers, and holds what
the server held.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.errors import PgkeepError
from pgkeep.progress import Silent
from pgkeep.repository.identity import Repository
from pgkeep.restore.plan import FetchAccess, RestoreOptions
from pgkeep.restore.run import plan_restore, run_restore
from pgkeep.restore.target import immediate
from pgkeep.storage.checked import CheckedStore
from pgkeep.storage.faults import PASSING, POSSIBLE, Failure
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.retry import RetryingStore
from tests.backup.format_reader import ReadBackup
from tests.backup.lineage import Lineage
from tests.matrix.calls import FULL, SEED, Call, calls_of
from tests.servers import new_directory

pytestmark = pytest.mark.majors(18)
_RUNS, _RECOVERED = (60, 10) if os.environ.get(FULL) == "1" else (5, 2)


class Frail:
    """The repository of a lineage behind a store that fails, with the retries of a command."""

    def __init__(self, lineage: Lineage) -> None:
        self.store = FaultyStore(lineage.site.store, sleep=lambda _: None)
        checked = RetryingStore(
            CheckedStore(self.store), deadline_seconds=600, sleep=lambda _: None
        )
        self.repository: Repository = lineage.site.repository(store=checked)
        self.store.calls.clear()

    def calls(self) -> list[Call]:
        return calls_of(self.store.calls)


def draw(chance: random.Random, calls: list[Call]) -> tuple[Call, Failure]:
    call = chance.choice(calls)
    return call, chance.choice(POSSIBLE[call.method])


def ends_well(run: Callable[[], object]) -> bool:
    """Whether it succeeds; what it fails with says what to do."""
    problem: PgkeepError | None = None
    try:
        run()
    except PgkeepError as error:
        problem = error
    assert problem is None or problem.remedy, problem
    return problem is None


def assert_same_files(backup: ReadBackup, into: Path) -> None:
    for path in {*backup.files} - {"postgresql.auto.conf", "tablespace_map"}:
        assert (into / path).read_bytes() == backup.content(path), path


def test_backups_of_a_failing_store_that_are_listed_recover(
    make_lineage: Callable[..., Lineage],
) -> None:
    chance = random.Random(os.environ.get(SEED, "20261120"))
    lineage = make_lineage()
    server = lineage.server
    server.psql("CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 20000)")
    frail = Frail(lineage)
    lineage.backup(repository=frail.repository)
    made = 1
    for number in range(_RUNS):
        server.psql(f"UPDATE t SET i = i + 1 WHERE i % 50 = {number % 50}")
        call, failure = draw(chance, frail.calls())
        frail = Frail(lineage)
        frail.store.fail(call.fault(failure))
        worked = ends_well(lambda frail=frail: lineage.backup(repository=frail.repository))  # type: ignore[misc]
        assert worked or failure not in PASSING, (call, failure)
        made += worked
        frail.store.calls.clear()
        frail.store.heal()
        lineage.backup(repository=frail.repository)  # the next one works, and goes on from it
        made += 1
    listed = lineage.site.listed()
    assert len(lineage.made) == made <= len(listed)
    for backup in chance.sample(listed, 2 * _RECOVERED):
        lineage.site.check_restorable(backup)
    for name in chance.sample(lineage.made, _RECOVERED):
        lineage.check(name)


def test_a_restore_from_a_failing_store_is_whole_or_none(
    make_lineage: Callable[..., Lineage],
) -> None:
    chance = random.Random(os.environ.get(SEED, "20261120"))
    lineage = make_lineage()
    lineage.server.psql("CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 20000)")
    backup = lineage.backup().head.backup
    access = FetchAccess(("/bin/false",), {}, None, "it is not to be called")
    calls: list[Call] = []
    for _ in range(_RUNS + 1):
        frail, into = Frail(lineage), new_directory("m") / "data"
        failure = Failure.SLOW
        if calls:
            call, failure = draw(chance, calls)
            frail.store.fail(call.fault(failure))
        options = RestoreOptions(into, target=immediate(), backup=backup, wal="copied")

        def run(frail: Frail = frail, options: RestoreOptions = options) -> None:
            where = (frail.repository, lineage.site.layout)
            plan = plan_restore(*where, options, access=access, progress=Silent())
            run_restore(*where, plan, access=access, progress=Silent())

        worked = ends_well(run)
        assert worked or failure not in PASSING, failure
        assert worked == (into / "global/pg_control").exists()
        if worked:
            assert_same_files(lineage.read(backup), into)
        calls = calls or frail.calls()
