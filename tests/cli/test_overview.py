"""What ``list`` says of a backup is what a restore would do with it; the store is read as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.cli.systems import known_systems
from pgkeep.config import load_settings
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import Repository, Unlock, open_repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import register_system
from pgkeep.storage.local import LocalStore
from tests.cli.kit import Pgkeep
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
from tests.server_user import server_user

SECOND_TIMELINE = "20261120T130000Z"


def register(repository: Repository, system: int, at: str = AT) -> None:
    register_system(
        repository.store, "main", system, postgres_major=18, new_system=True, at=at, by=BY
    )


@pytest.fixture
def pgkeep(tmp_path: Path) -> Pgkeep:
    """A repository with a backup on timeline 1 and one on timeline 2, whose history is missing."""
    pgkeep = Pgkeep()
    repository, _ = make_repository(tmp_path, store=LocalStore(pgkeep.repository, create=True))
    register(repository, SYSTEM)
    for timeline, segment in ((1, 3), (2, 5)):
        put_segment(repository, timeline, segment)
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    put_backup(repository, head(SECOND_TIMELINE, "0/500028", "0/500100", timeline=2))
    give_away(pgkeep)
    return pgkeep


def give_away(pgkeep: Pgkeep) -> None:
    for path in (pgkeep.repository, *pgkeep.repository.rglob("*")):
        server_user().own(path)


def test_backup_whose_timeline_has_no_history_file_is_marked(pgkeep: Pgkeep) -> None:
    note = "cannot be restored: the history file of timeline 2 is missing"
    first, second = pgkeep.json("list")["backups"]
    assert (first["good"], first["notes"]) == (True, [])
    assert (second["good"], second["notes"]) == (False, [note])
    assert note in pgkeep("list").stdout
    shown = pgkeep("show", SECOND_TIMELINE).stdout
    assert "nowhere: the history file of timeline 2 is missing" in shown
    assert pgkeep.json("show", SECOND_TIMELINE)["good"] is False
    # The restore agrees.
    done = pgkeep("restore", "--into", pgkeep.root / "x", "--latest", "--dry-run", code=21)
    assert "00000002.history" in done.stderr


def test_history_file_that_arrives_later_mends_it(pgkeep: Pgkeep) -> None:
    host = HostState(pgkeep.root / "state-of-test")
    repository = open_repository(LocalStore(pgkeep.repository), host, unlock=Unlock())
    put_history(repository, 2, b"1\t0/500000\tno recovery target specified\n")
    give_away(pgkeep)
    backup = pgkeep.json("list")["backups"][1]
    assert (backup["good"], backup["notes"]) == (True, [])


def test_system_that_came_back_is_the_present_one(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    put_backup(repository, head("20261120T130000Z", "0/300028", "0/300100"), copies="second")
    repository.store.put(LAYOUT.void("20261120T120000Z"), b"")
    repository.store.put(Layout("main", 42).manifest("20261120T140000Z"), b"not even readable")
    moments = [f"2026-11-20T1{hour}:00:00.000000Z" for hour in range(3)]
    for system, at in zip((SYSTEM, 42, SYSTEM), moments, strict=True):
        register(repository, system, at)

    other, present = known_systems(load_settings({}), repository)
    assert (other.system_identifier, other.backups) == (42, 1)
    assert (present.system_identifier, present.backups) == (SYSTEM, 1)
    assert (other.until is None, present.until) == (False, None)
    assert present.since < other.since < other.until  # type: ignore[operator]
