"""A store that is far away is not waited for more often than its answers rest on each other."""

from __future__ import annotations

import io
from argparse import Namespace
from pathlib import Path

import pytest

from pgkeep.cli import session
from pgkeep.cli.context import Context
from pgkeep.cli.output import Output
from pgkeep.cli.overview import ClusterView, view_cluster
from pgkeep.cli.session import open_repo
from pgkeep.cli.systems import restorable_layout
from pgkeep.progress import Silent
from pgkeep.repository.check_records import record_check
from pgkeep.repository.checks import Check
from pgkeep.repository.system import register_system
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.resolve import resolve
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import (
    AT,
    BY,
    LAYOUT,
    SYSTEM,
    head,
    make_repository,
    put_backup,
    put_history,
    put_segment,
)
from tests.storage.rounds import Rounds


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    """A sealed repository of one cluster: three backups, a timeline that forked, two checks."""
    store = MemoryStore()
    repository, identity = make_repository(tmp_path, sealed=True, store=store)
    register_system(store, "main", SYSTEM, postgres_major=18, new_system=True, at=AT, by=BY)
    for timeline, segment in ((1, 3), (1, 4), (1, 5), (2, 5), (2, 6)):
        put_segment(repository, timeline, segment)
    put_history(repository, 2, b"1\t0/500000\tno recovery target specified\n")
    for number, start in enumerate((3, 4)):
        put_backup(
            repository, head(f"20261120T12000{number}Z", f"0/{start}00028", f"0/{start}00100")
        )
    put_backup(repository, head("20261120T130000Z", "0/600028", "0/600100", timeline=2))
    for kind in ("quick", "scrub"):
        check = Check(kind, AT, backups=("20261120T120000Z",))
        record_check(repository, LAYOUT, check, by=BY, known=check.backups)
    (tmp_path / "identity").write_text(identity)
    counted = Rounds(store, monkeypatch)
    monkeypatch.setattr(session, "open_url_of", lambda settings, create=False: counted)
    return counted


@pytest.fixture
def context(tmp_path: Path) -> Context:
    environ = {
        "PGKEEP_REPO": "memory://",
        "PGKEEP_STATE": str(tmp_path / "state-of-cli"),
        "PGKEEP_IDENTITY": str(tmp_path / "identity"),
    }
    output = Output(as_json=False, environ=environ, stdout=io.StringIO(), stderr=io.StringIO())
    args = Namespace(command="list", system=None)
    return Context(args, output, environ=environ, program=("pgkeep",), owner_uid=0)


def test_what_every_command_reads_first_takes_two(rounds: Rounds, context: Context) -> None:
    repository = open_repo(context, 0)
    assert rounds.trips == 2, rounds.log
    layout = restorable_layout(context.settings, repository, system=None)
    assert layout.system_identifier == SYSTEM
    assert (rounds.trips, rounds.requests) == (2, 5), rounds.log


def test_list_takes_six(rounds: Rounds, context: Context) -> None:
    view = view_cluster(context)
    assert_complete(view)
    # One after the other they were 27.
    assert (rounds.trips, rounds.requests) == (6, 23), "\n".join(rounds.log)


def test_finding_the_way_to_the_latest_moment_takes_six_more(
    rounds: Rounds, context: Context
) -> None:
    repository = open_repo(context, 0)
    layout = restorable_layout(context.settings, repository, system=None)
    rounds.begin()
    options = RestoreOptions(Path("/nowhere"))
    found = resolve(repository, layout, options, progress=Silent())
    assert found.timeline == 2
    # One after the other they were 15.
    assert (rounds.trips, rounds.requests) == (6, 16), "\n".join(rounds.log)


def assert_complete(view: ClusterView) -> None:
    assert [backup.id for backup in view.backups] == [
        *("20261120T120000Z", "20261120T120001Z", "20261120T130000Z"),
    ]
    assert [window.timeline for window in view.windows] == [1, 2]
    assert view.checks.of_backup("20261120T120000Z") is not None
    assert [system.backups for system in view.systems] == [3]
