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


def test_timelines_are_drawn_as_a_tree(pgkeep: Pgkeep) -> None:
    assert "its history file is missing" in pgkeep("list").stdout
    host = HostState(pgkeep.root / "state-of-test")
    repository = open_repository(LocalStore(pgkeep.repository), host, unlock=Unlock())
    put_history(repository, 2, b"1\t0/500000\tno recovery target specified\n")
    put_history(repository, 3, b"1\t0/400000\tbefore 2024-01-01\n")
    put_history(repository, 7, b"1\t0/500000\tx\n2\t0/600000\tx\n")
    for timeline, segment in ((3, 4), (7, 6)):
        put_segment(repository, timeline, segment)
    give_away(pgkeep)
    lines = pgkeep("list").stdout.splitlines()
    at = lines.index("Timelines")
    assert lines[at + 1 : at + 5] == [
        "  1  1 backup",
        "  ├─ 2  from 0/500000 on, 1 backup",
        "  │  └─ 7  from 0/600000 on",
        "  └─ 3  from 0/400000 on",
    ]
    assert pgkeep.json("list")["timelines"][-1] == {
        "timeline": 7,
        "parent": 2,
        "left_at": "0/600000",
        "backups": 0,
    }


def test_history_file_that_arrives_later_mends_it(pgkeep: Pgkeep) -> None:
    host = HostState(pgkeep.root / "state-of-test")
    repository = open_repository(LocalStore(pgkeep.repository), host, unlock=Unlock())
    put_history(repository, 2, b"1\t0/500000\tno recovery target specified\n")
    give_away(pgkeep)
    backup = pgkeep.json("list")["backups"][1]
    assert (backup["good"], backup["notes"]) == (True, [])


GIB = 1 << 30
MONDAY, TUESDAY, WEDNESDAY = (f"2026112{day}T020000Z" for day in range(3))
OWN = {day: (f"{number:02x}" * 16, 1) for number, day in enumerate((MONDAY, TUESDAY, WEDNESDAY))}


@pytest.fixture
def week(tmp_path: Path) -> Pgkeep:
    """A full backup of 3 GiB, and two increments of 1 GiB each that took over 2 GiB."""
    pgkeep = Pgkeep()
    repository, _ = make_repository(tmp_path, store=LocalStore(pgkeep.repository, create=True))
    register(repository, SYSTEM)
    put_segment(repository, 1, 3)
    first, stop = "0/300028", "0/300100"
    taken_over = (OWN[MONDAY][0], 2)
    for day, parent in ((MONDAY, None), (TUESDAY, MONDAY), (WEDNESDAY, TUESDAY)):
        facts = {
            "kind": "incremental" if parent else "full",
            "parent": parent,
            "added_bytes": GIB if parent else 3 * GIB,
            "stored_bytes": 3 * GIB,
            "database_bytes": 8 * GIB,
        }
        packs = {OWN[day]: GIB, taken_over: 2 * GIB}
        put_backup(repository, head(day, first, stop, **facts), packs=packs)
    give_away(pgkeep)
    return pgkeep


def test_list_says_what_each_backup_added(week: Pgkeep) -> None:
    rows = [line.split() for line in week("list").stdout.splitlines() if line.startswith("  2026")]
    assert [row[:2] for row in rows] == [
        [WEDNESDAY, "incremental"],
        [TUESDAY, "incremental"],
        [MONDAY, "full"],
    ]
    added = ["8.0 GiB 1.0 GiB -"] * 2 + ["8.0 GiB 3.0 GiB -"]  # and not checked yet
    assert [" ".join(row[-5:]) for row in rows] == added


def test_show_says_what_a_backup_adds_shares_and_would_free(week: Pgkeep) -> None:
    text = week("show", TUESDAY).stdout
    lines = {line[2:18].strip(): line[18:].strip() for line in text.splitlines()}
    assert f"{TUESDAY} · incremental · good" in text
    assert lines["parent"] == MONDAY
    assert lines["stored"] == "3.0 GiB in 2 packs"
    assert lines["added"] == "1.0 GiB by this backup"
    assert lines["shared"] == "2.0 GiB with 2 other backups"
    assert lines["deleting it"] == "would free 1.0 GiB"
    document = week.json("show", TUESDAY)
    assert document["shared_bytes"] == 2 * GIB
    assert document["freed_bytes"] == GIB
    assert document["shared_with"] == [MONDAY, WEDNESDAY]
    assert (document["parent"], document["packs"]) == (MONDAY, 2)


def test_show_of_a_full_backup_says_what_later_ones_took_over(week: Pgkeep) -> None:
    text = week("show", MONDAY).stdout
    assert "parent" not in text
    assert "3.0 GiB by this backup" in text
    assert "2.0 GiB with 2 other backups" in text
    assert "would free 1.0 GiB" in text


def test_a_deleted_parent_is_no_loss(week: Pgkeep) -> None:
    for path in week.repository.rglob(f"manifests*/{TUESDAY}"):
        path.unlink()
    text = week("show", WEDNESDAY).stdout
    assert f"{TUESDAY} (deleted since, and not needed)" in text
    assert "2.0 GiB with 1 other backup\n" in text


def test_what_deleting_frees_is_unknown_beside_a_backup_that_cannot_be_read(week: Pgkeep) -> None:
    for path in week.repository.rglob(f"manifests*/{MONDAY}"):
        path.write_bytes(b"rubbish")
    text = week("show", TUESDAY).stdout
    assert f"parent          {MONDAY}\n" in text
    assert "would free an unknown size: other backups cannot be read" in text
    assert week.json("show", TUESDAY)["freed_bytes"] is None


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
