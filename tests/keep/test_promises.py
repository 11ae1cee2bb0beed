"""The promises of expiry, one by one, on histories that are made for them."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgkeep.config.keeping import KeepPolicy
from pgkeep.errors import BackupKept, NoSuchBackup, PgkeepError, StoreDenied, StoreError
from pgkeep.keep.by_hand import delete, hold, undelete
from pgkeep.keep.look import Look, look
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record
from pgkeep.repository.system import register_system
from pgkeep.repository.trash import TRASH, give_word, read_trash
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from tests.keep.world import DAY, Made, World
from tests.repository.kit import AT, BY, LAYOUT

HOUR = timedelta(hours=1)
ONE = KeepPolicy(days=0, backups=1)
WEEK = KeepPolicy()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def history(world: World, count: int) -> list[Made]:
    """Backups of which each has packs of its own only, two segments of WAL between them."""
    made = []
    for _ in range(count):
        world.wait(6 * HOUR)
        world.archive(2)
        running = world.begin(reuse=0)
        world.put_packs(running)
        one = world.finish(running)
        assert one is not None
        made.append(one)
    return made


def packs_left(world: World, made: Made) -> int:
    return sum(world.store.exists(key) for key in made.packs)


def expire_until_done(world: World, policy: KeepPolicy) -> None:
    for _ in range(3):
        world.expire(policy)
        world.wait(25 * HOUR)
    world.expire(policy)


def test_what_is_not_kept_goes_whole_and_what_is_kept_stays(world: World) -> None:
    first, second, third = history(world, 3)
    expire_until_done(world, ONE)
    assert world.listed_names() == {third.id}
    assert packs_left(world, first) == packs_left(world, second) == 0
    world.assert_reaches_the_end(third)
    assert not any(world.store.list(f"{LAYOUT.wal}0000000100000000/000000010000000000000005"))
    left = [info.key for info in world.store.list(LAYOUT.root)]
    assert not [key for key in left if first.id in key or second.id in key]


def test_a_pin_that_nobody_swept_away_keeps_no_packs_of_a_deleted_backup(world: World) -> None:
    first, _ = history(world, 2)
    world.expire(ONE, grace_seconds=0, sweep=False)
    report = world.expire(ONE, grace_seconds=0, sweep=None)
    assert report.deleted == [first.id]
    world.wait(2 * HOUR)
    world.expire(ONE, sweep=None)
    assert packs_left(world, first) == 0


def test_packs_that_were_condemned_stay_for_an_hour_and_longer_if_somebody_names_them(
    world: World,
) -> None:
    first, _ = history(world, 2)
    world.expire(ONE, grace_seconds=0)
    world.expire(ONE, grace_seconds=0)
    world.wait(timedelta(minutes=55))
    world.expire(ONE, grace_seconds=0)
    assert packs_left(world, first) == 2
    # A pin of the attempt that made them: they are named again.
    attempt = next(iter(first.packs)).split("/")[-2]
    members = {"attempt": attempt, "purpose": "copy", "backup": None}
    pin = build_record("pin", members, at=AT, by=BY)
    world.store.put(LAYOUT.pin(attempt, 7), pin, if_absent=True)
    world.wait(timedelta(minutes=10))
    world.expire(ONE, grace_seconds=0)
    assert packs_left(world, first) == 2
    world.store.delete([LAYOUT.pin(attempt, 7)])
    world.expire(ONE)
    assert packs_left(world, first) == 2  # its hour begins anew
    world.wait(2 * HOUR)
    world.expire(ONE)
    assert packs_left(world, first) == 0


def test_a_backup_in_the_making_loses_nothing_and_counts(world: World) -> None:
    history(world, 3)
    running = world.begin(reuse=1)
    world.put_packs(running)
    for _ in range(20):
        world.expire(ONE, grace_seconds=0)
        world.wait(3 * HOUR)
        running.pin._renewed = -1e9
        running.pin.renew()
    made = world.finish(running)
    assert made is not None
    assert packs_left(world, made) == len(made.packs)


def test_a_reader_keeps_what_he_reads_and_its_wal_as_long_as_his_pin_lives(world: World) -> None:
    first, *_ = history(world, 3)
    pin = world.restore_begins(first)
    for _ in range(23):
        world.expire(ONE, grace_seconds=0)
        assert packs_left(world, first) == 2
        world.assert_reaches_the_end(first)
        world.wait(3 * HOUR)
    world.wait(4 * HOUR)
    for _ in range(3):
        world.expire(ONE, grace_seconds=0)
        world.wait(2 * HOUR)
    assert packs_left(world, first) == 0
    assert not world.store.exists(pin)


def test_what_is_in_the_trash_comes_back_with_its_window(world: World) -> None:
    first, *_ = history(world, 4)
    delete(world.repository, LAYOUT, [first.id], reason="by hand", by=BY)
    world.wait(2 * HOUR)
    world.expire(WEEK)
    assert first.id not in world.listed_names()
    undelete(world.repository, LAYOUT, [first.id], by=BY)
    assert first.id in world.listed_names()
    world.assert_reaches_the_end(first)


def test_any_moment_of_the_window_can_be_gone_back_to(world: World) -> None:
    two_days = KeepPolicy(days=2, backups=1)
    (begin,) = history(world, 1)
    world.wait(2 * DAY + 12 * HOUR)
    later = history(world, 2)[-1]
    world.wait(12 * HOUR)
    world.expire(two_days)
    world.assert_reaches_the_end(begin)
    # Thrown away by hand, and back: its WAL is still there, though meanwhile nobody needed it.
    delete(world.repository, LAYOUT, [begin.id], reason="by hand", by=BY)
    world.expire(two_days)
    undelete(world.repository, LAYOUT, [begin.id], by=BY)
    world.assert_reaches_the_end(begin)
    world.wait(DAY)
    history(world, 1)
    world.wait(DAY + 12 * HOUR)
    world.expire(two_days)
    assert begin.id not in world.listed_names()
    world.assert_reaches_the_end(later)


def test_an_undelete_comes_before_the_deletion_or_is_refused(world: World) -> None:
    first, _ = history(world, 2)
    world.expire(ONE)
    world.wait(25 * HOUR)
    undelete(world.repository, LAYOUT, [first.id], by=BY)
    world.expire(WEEK)
    assert first.id in world.listed_names()
    world.expire(ONE)
    world.wait(25 * HOUR)
    # The manifests are still there when the run is killed: that it has begun decides.
    faulty = FaultyStore(world.store, [Fault(Failure.DENIED, method="delete", key="*/manifests*")])
    with pytest.raises(PgkeepError):
        world.expire(ONE, store=faulty)
    assert world.store.exists(LAYOUT.manifest(first.id))
    with pytest.raises(NoSuchBackup, match="cannot be brought back"):
        undelete(world.repository, LAYOUT, [first.id], by=BY)
    world.expire(ONE)
    assert not world.store.exists(LAYOUT.manifest(first.id))


def test_a_hold_that_came_too_late_keeps_the_bytes(world: World) -> None:
    first, _ = history(world, 2)
    hold(world.repository, LAYOUT, [first.id], reason="", by=BY)
    give_word(world.store, LAYOUT, TRASH, lambda _: [first.id], reason="a race", at=AT, by=BY)
    world.wait(30 * HOUR)
    expire_until_done(world, ONE)
    assert first.id in world.listed_names()
    world.assert_restorable(next(one for one in world.listed() if one.id == first.id))


def test_the_last_good_backup_is_never_deleted_by_hand(world: World) -> None:
    first, second = history(world, 2)
    damaged = world.backup(failed_pages=3)
    with pytest.raises(BackupKept, match="no good backup"):
        delete(world.repository, LAYOUT, [first.id, second.id], reason="", by=BY)
    assert world.listed_names() == {first.id, second.id, damaged.id}


def test_two_deletes_at_once_leave_a_good_backup(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = history(world, 2)

    def look_and_be_overtaken(*args: Any, **options: Any) -> Look:
        seen = look(*args, **options)
        give_word(world.store, LAYOUT, TRASH, lambda _: [second.id], reason="", at=AT, by=BY)
        return seen

    monkeypatch.setattr("pgkeep.keep.by_hand.look", look_and_be_overtaken)
    with pytest.raises(BackupKept, match="no good backup"):
        delete(world.repository, LAYOUT, [first.id], reason="", by=BY)
    assert world.listed_names() == {first.id}


def test_each_timelines_window_has_its_wal(world: World) -> None:
    history(world, 2)
    world.promote()
    before = history(world, 2)[-1]
    world.wait(8 * DAY)
    world.promote()
    world.archive(3)
    for _ in range(3):
        world.expire(KeepPolicy(days=7, backups=1), grace_seconds=0)
        world.wait(2 * HOUR)
    world.assert_reaches_the_end(before)
    assert world.listed_names() == {before.id}
    # Of the first timeline nothing is needed any more.
    assert not any("/00000001000" in info.key for info in world.store.list(LAYOUT.wal))


def test_an_earlier_system_goes_when_its_successor_covers_the_window(
    world: World, tmp_path: Path
) -> None:
    history(world, 2)
    other = Layout("main", LAYOUT.system_identifier + 1)
    register_system(
        world.store,
        "main",
        other.system_identifier,
        postgres_major=18,
        new_system=True,
        at=AT,
        by=BY,
    )
    world.wait(10 * DAY)
    for _ in range(3):  # the new system has no backup yet: the old one's stay
        world.expire(WEEK)
        world.wait(26 * HOUR)
    assert len(world.listed_names()) == 2


def test_a_dry_run_writes_nothing_and_says_the_same(world: World) -> None:
    history(world, 3)
    before = {info.key: info.etag for info in world.store.list("")}
    said = world.expire(ONE, dry_run=True)
    assert {info.key: info.etag for info in world.store.list("")} == before
    done = world.expire(ONE)
    assert said.trashed == done.trashed != []
    assert [one.why for one in said.decisions] == [one.why for one in done.decisions]


def test_nothing_is_left_of_months_but_what_is_kept(world: World) -> None:
    for day in range(120):
        world.wait(DAY)
        world.archive()
        world.backup()
        if day % 11 == 0:
            world.interrupted()
        if day % 17 == 0:
            world.begin()
        world.expire(WEEK, grace_seconds=3600)
    for _ in range(4):
        world.wait(3 * DAY)
        world.backup()
        world.expire(WEEK)
    listed = world.listed()
    assert 2 <= len(listed) <= 12
    left = [info.key for info in world.store.list(LAYOUT.root)]
    named = {key for backup in listed for key in world.made[backup.id].packs}
    young = {key for key in left if key.startswith(LAYOUT.packs)} - named
    assert len(young) <= 8, young
    assert len([key for key in left if key.startswith(LAYOUT.pins)]) <= 4
    assert not [key for key in left if key.startswith(LAYOUT.partials)]
    assert len([key for key in left if "/admin/" in key]) <= 80
    segments = [key for key in left if key.startswith(LAYOUT.wal)]
    oldest = min(world.made[backup.id].first for backup in listed)
    assert len(segments) <= world.position - oldest + 3


def build_world(folder: Path) -> World:
    world = World(folder)
    history(world, 3)
    world.interrupted()
    world.expire(ONE, grace_seconds=0)
    world.wait(2 * HOUR)
    history(world, 1)
    world.expire(ONE, grace_seconds=0)
    world.wait(9 * DAY)
    return world


@pytest.mark.parametrize("failure", [Failure.UNAVAILABLE, Failure.LOST_ANSWER, Failure.BROKEN])
def test_whatever_call_fails_nothing_is_lost_and_the_next_run_goes_on(
    tmp_path: Path, failure: Failure
) -> None:
    template = build_world(tmp_path / "template")
    objects = dict(template.store._objects)
    counting = FaultyStore(template.store)
    template.expire(ONE, grace_seconds=0, store=counting)
    calls = counting.count()
    assert calls > 40
    for _ in range(2):
        template.wait(2 * HOUR)
        template.expire(ONE, grace_seconds=0)
    expected = _kinds(template.store)
    for call in range(calls):
        world = template
        world.now -= 4 * HOUR
        world.store._objects = dict(objects)
        faulty = FaultyStore(world.store, [Fault(failure, skip=call, times=None)])
        with suppress(PgkeepError):
            world.expire(ONE, grace_seconds=0, store=faulty)
        for backup in world.listed():
            world.assert_restorable(backup)
        world.expire(ONE, grace_seconds=0)
        for _ in range(2):
            world.wait(2 * HOUR)
            world.expire(ONE, grace_seconds=0)
        assert _kinds(world.store) == expected, call


@pytest.mark.parametrize("what", ["manifests", "packs", "wal"])
def test_what_the_store_refuses_to_delete_is_an_error_and_goes_later(
    tmp_path: Path, what: str
) -> None:
    world = build_world(tmp_path)
    before = _kinds(world.store)
    refusing = Fault(Failure.DENIED, method="delete", key=f"*/{what}/*", times=None)

    def refused() -> None:
        for _ in range(2):
            world.expire(ONE, grace_seconds=0, store=FaultyStore(world.store, [refusing]))
            world.wait(2 * HOUR)

    with pytest.raises(StoreDenied):
        refused()
    assert _kinds(world.store)[what] == before[what]
    for backup in world.listed():
        world.assert_restorable(backup)
    for _ in range(2):
        world.expire(ONE, grace_seconds=0)
        world.wait(2 * HOUR)
    assert _kinds(world.store)[what] < before[what]


def _kinds(store: MemoryStore) -> dict[str, int]:
    """How many objects of each kind there are that a user pays for."""
    found: dict[str, int] = {}
    for info in store.list(LAYOUT.root):
        kind = info.key[len(LAYOUT.root) :].partition("/")[0]
        if kind not in ("admin", "pins"):  # the pin that tells the clock dies by itself
            found[kind] = found.get(kind, 0) + 1
    return found


def test_a_store_that_lists_late_is_left_as_it_is(world: World) -> None:
    history(world, 3)
    before = {info.key for info in world.store.list("")}
    late = FaultyStore(
        world.store, [Fault(Failure.STALE, method="list", key=f"{LAYOUT.pins}*", times=None)]
    )
    with pytest.raises(StoreError, match="does not list what was just written"):
        world.expire(ONE, store=late)
    assert {info.key for info in world.store.list("")} == before


def test_trash_that_is_damaged_lets_its_backup_count_and_stops_deletion(world: World) -> None:
    first, _ = history(world, 2)
    world.expire(ONE)
    key = f"{LAYOUT.admin('trash')}00000001"
    world.store.delete([key])
    world.store.put(key, b"rubbish")
    assert not read_trash(world.store, LAYOUT).states
    assert first.id in world.listed_names()
    world.wait(30 * HOUR)
    with pytest.raises(PgkeepError):
        world.expire(ONE)
    assert world.store.exists(LAYOUT.manifest(first.id))
