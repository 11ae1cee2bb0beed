"""A backup is only made where WAL arrives, and a slow archiver is not a broken one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pgkeep.backup.proof import Arrival
from pgkeep.errors import ArchivingNotWorking, ServerError, StoreUnavailable
from pgkeep.repository.identity import Repository
from pgkeep.storage.faults import Failure, Fault
from pgkeep.storage.faulty import FaultyStore
from tests.repository.kit import LAYOUT, make_repository, put_wal

TIMEOUT = 60.0
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def name(number: int) -> str:
    return f"0000000100000000{number:08X}"


class World:
    """A server, an archiver and a clock. Sleeping is when things happen."""

    def __init__(self, folder: Path) -> None:
        self.repository: Repository = make_repository(folder)[0]
        self.now = 0.0
        self.state: list[Any] = [0, None, None, 0, None, None, False]
        self.step: Callable[[], None] = lambda: None
        self.kept_alive = 0
        self.due = folder / "archive_status"
        self.due.mkdir()

    def row(self, query: str) -> tuple[Any, ...]:
        assert "pg_stat_archiver" in query
        return tuple(self.state)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    def archived(self, number: int, *, stored: bool = True) -> None:
        self.state[:3] = [self.state[0] + 1, name(number), AT]
        if stored:
            put_wal(self.repository, name(number), b"wal", kind="segment")

    def keepalive(self) -> None:
        self.kept_alive += 1

    def wait(self, numbers: Iterable[int]) -> float:
        Arrival(
            self.repository,
            LAYOUT,
            [name(number) for number in numbers],
            timeout_seconds=TIMEOUT,
            connection=self,  # type: ignore[arg-type]
            due=self.due,
            clock=lambda: self.now,
        ).wait(keepalive=self.keepalive, sleep=self.sleep)
        return self.now


def counted(world: World) -> FaultyStore:
    """Count, from now on, what the repository is asked."""
    store = FaultyStore(world.repository.store, [])
    world.repository = Repository(store, world.repository.identity, world.repository.keyring)
    return store


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_segments_that_are_there_are_not_waited_for(world: World) -> None:
    for number in (1, 2, 3):
        world.archived(number)
    assert world.wait([1, 2, 3]) == 0


def test_nothing_that_arrives_is_an_error_after_the_timeout(world: World) -> None:
    with pytest.raises(ArchivingNotWorking) as caught:
        world.wait([1])
    assert TIMEOUT <= world.now < TIMEOUT + 2
    assert caught.value.exit_code == 13
    assert name(1) in caught.value.what
    assert "done nothing" in str(caught.value)
    assert world.kept_alive > TIMEOUT / 2


def test_a_segment_that_is_stored_and_yet_to_be_archived_is_not_the_servers(world: World) -> None:
    world.archived(1)
    note = world.due / f"{name(1)}.ready"
    note.touch()

    def step() -> None:
        if world.now > 30:
            note.unlink(missing_ok=True)

    world.step = step
    assert world.wait([1]) > 30
    note.touch()
    world.step = lambda: None
    with pytest.raises(ArchivingNotWorking):
        world.wait([1])


def test_each_segment_that_arrives_gives_the_others_time(world: World) -> None:
    due = {0.9 * TIMEOUT * number: number for number in range(1, 6)}

    def step() -> None:
        for moment in [moment for moment in due if moment <= world.now]:
            number = due.pop(moment)
            put_wal(world.repository, name(number), b"wal", kind="segment")

    world.step = step
    assert world.wait(range(1, 6)) >= 4.5 * TIMEOUT


def test_an_archiver_that_works_off_a_backlog_is_waited_for(world: World) -> None:
    """Its other segments take 50 s each, and ours is behind all of them."""

    def step() -> None:
        if world.now >= 50.0 * (world.state[0] + 1):
            world.archived(world.state[0] + 1)

    world.step = step
    assert world.wait([40]) >= 40 * 50.0


def test_an_archiver_that_stands_still_is_not_waited_for(world: World) -> None:
    def step() -> None:
        if world.now < 100 and world.now >= 10.0 * (world.state[0] + 1):
            world.archived(world.state[0] + 1)

    world.step = step
    with pytest.raises(ArchivingNotWorking):
        world.wait([40])
    assert 90 + TIMEOUT <= world.now < 100 + TIMEOUT + 3


def test_history_files_and_backup_labels_count_as_getting_on(world: World) -> None:
    others = [f"{name(3)}.00000028.backup", "00000001.history"] * 5

    def step() -> None:
        if others and world.now >= 50.0 * (world.state[0] + 1):
            world.state[:3] = [world.state[0] + 1, others.pop(), AT]

    world.step = step
    with pytest.raises(ArchivingNotWorking):
        world.wait([4])
    assert world.now > 500


def test_a_busy_archiver_that_archives_to_another_place_is_found_out(world: World) -> None:
    def step() -> None:
        world.archived(world.state[0] + 1, stored=False)

    world.state[:3] = [4, name(4), AT]
    world.step = step
    with pytest.raises(ArchivingNotWorking) as caught:
        world.wait([5])
    assert world.now < TIMEOUT + 3
    assert "another place" in str(caught.value)


def test_what_the_archiver_failed_with_is_told(world: World) -> None:
    world.state[1:6] = [name(1), AT, 7, name(2), AT.replace(hour=13)]
    with pytest.raises(ArchivingNotWorking) as caught:
        world.wait([2])
    assert "failed 7 times, last for " + name(2) in str(caught.value)
    assert "the last success was " + name(1) in str(caught.value)


def test_a_failure_of_long_ago_is_not_given_as_the_reason(world: World) -> None:
    world.state[:6] = [9, name(3), AT, 7, name(2), AT.replace(hour=11)]
    with pytest.raises(ArchivingNotWorking) as caught:
        world.wait([2])
    assert "failed" not in str(caught.value)


def test_on_a_standby_the_remedy_is_on_the_primary(world: World) -> None:
    world.state[6] = True
    with pytest.raises(ArchivingNotWorking) as caught:
        world.wait([2])
    assert "pg_switch_wal() on the primary" in str(caught.value)


def test_after_the_end_the_server_may_be_gone_while_wal_still_arrives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(query: str) -> tuple[Any, ...]:
        raise ServerError("The connection was lost.")

    def step() -> None:
        if world.now > 30 and not world.state[0]:
            world.archived(2)

    monkeypatch.setattr(world, "row", gone)
    world.step = step
    assert world.wait([2]) > 30
    with pytest.raises(ArchivingNotWorking) as caught:
        world.wait([3])
    assert "could not be asked" in str(caught.value)


def test_a_session_that_is_lost_meanwhile_is_an_error_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise ServerError("The connection was lost.")

    monkeypatch.setattr(world, "keepalive", lost)
    with pytest.raises(ServerError, match="lost"):
        world.wait([2])
    assert world.now < 2


def test_a_segment_that_the_server_has_archived_is_seen_at_once_and_asked_for_once(
    world: World,
) -> None:
    counting = counted(world)
    note = world.due / f"{name(1)}.ready"
    note.touch()

    def step() -> None:
        if world.now >= 0.5 and note.exists():
            world.archived(1)
            note.rename(world.due / f"{name(1)}.done")

    world.step = step
    assert world.wait([1]) < 0.53
    assert counting.count("head") == 1


def test_a_store_that_is_away_while_the_server_waits_for_it_is_found_out(world: World) -> None:
    """Else the archiver would be blamed, which can do nothing."""
    away = counted(world)
    away.fail(Fault(Failure.UNAVAILABLE, "head", "*", times=None))
    (world.due / f"{name(1)}.ready").touch()
    with pytest.raises(StoreUnavailable):
        world.wait([1])
    assert world.now < 3


def test_notes_that_nobody_can_read_are_no_reason_to_stop_looking(world: World) -> None:
    world.due = world.due / "gone"

    def step() -> None:
        if world.now > 5 and not world.state[0]:
            world.archived(1)

    world.step = step
    assert 5 < world.wait([1]) < 7


def test_many_segments_cost_one_listing_for_each_group(world: World) -> None:
    counting = counted(world)
    for number in range(1, 200):
        world.archived(number)
    world.wait(range(1, 200))
    assert sum(counting.calls.values()) == 199 + 1  # the puts of this test, and a listing
