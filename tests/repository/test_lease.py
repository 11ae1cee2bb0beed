"""One backup of a cluster at a time: who lives is not disturbed, who died hinders nobody for long
(format, section 2.7)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from pgkeep.errors import BackupRunning, FormatTooNew, StoreError, StoreUnavailable
from pgkeep.progress import Silent
from pgkeep.repository.holder import this_process
from pgkeep.repository.lease import Lease, holding
from pgkeep.repository.record import build_record, parse_record
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.interface import Capabilities, Store
from pgkeep.storage.local import LocalStore
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, LAYOUT

KEY = LAYOUT.lease


class Told(Silent):
    """Keeps everything that the user would see."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []
        self.notes: list[str] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)


class World:
    """A store, a clock that moves when somebody waits, and what happens meanwhile."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or MemoryStore()
        self.now = 1000.0
        self.told = Told()
        self._events: list[tuple[float, Callable[[], object]]] = []

    def lease(self, host: str = "db-new", **options: Any) -> Lease:
        return Lease(
            self.store,
            LAYOUT,
            attempt="ab" * 16,
            by={"host": host, "pid": 4711, "version": "0"},
            progress=self.told,
            clock=lambda: self.now,
            pause=self.pause,
            **options,
        )

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen so many seconds from now, while somebody waits."""
        self._events.append((self.now + seconds, action))

    def pause(self, seconds: float) -> None:
        assert 0 < seconds <= 1
        self.now += seconds
        due = [event for event in self._events if event[0] <= self.now]
        self._events = [event for event in self._events if event not in due]
        for _, action in due:
            action()

    def acquire(self, lease: Lease) -> float:
        """How many seconds it took."""
        began = self.now
        assert lease.acquire()
        return self.now - began

    def refused(self, lease: Lease) -> tuple[BackupRunning, float]:
        began = self.now
        with pytest.raises(BackupRunning) as caught:
            lease.acquire()
        return caught.value, self.now - began

    def record(self) -> dict[str, Any]:
        return parse_record(self.store.get(KEY), KEY, kind="lease")

    def put(self, *, at: str = AT, **changes: Any) -> None:
        """The record of a holder that says no more; on another host unless told otherwise."""
        members = {"holder": "other", "attempt": "cd" * 16, "purpose": "backup", "renewals": 7}
        by = {"host": "db-old", "pid": 12, "version": "0", **changes.pop("by", {})}
        record = build_record("lease", {**members, "seconds": 60, **changes}, at=at, by=by)
        self.store.put(KEY, record)


@pytest.fixture
def world() -> World:
    return World()


# -- nobody holds it ------------------------------------------------------------------------------


def test_an_absent_lease_is_taken_at_once(world: World) -> None:
    assert world.acquire(world.lease()) == 0
    record = world.record()
    assert (record["seconds"], record["attempt"], record["by"]["host"]) == (60, "ab" * 16, "db-new")
    assert (world.told.phases, world.told.notes, world.told.warnings) == ([], [], [])


def test_a_lease_that_was_given_up_is_taken_at_once(world: World) -> None:
    first = world.lease()
    world.acquire(first)
    first.release()
    assert world.record()["seconds"] == 0
    assert world.acquire(world.lease()) == 0
    assert (world.told.phases, world.told.notes) == ([], [])


# -- somebody may hold it -------------------------------------------------------------------------


def test_a_holder_that_renews_is_left_alone_and_named(world: World) -> None:
    holder, second = world.lease("db-old"), world.lease()
    world.acquire(holder)
    for seconds in (7, 22, 37):
        world.after(seconds, holder.renew)
    error, took = world.refused(second)
    assert took <= 23  # the renewal at 7 s is too early to be one
    assert error.exit_code == 72
    assert "main" in error.what
    assert "db-old (process 4711, since 2" in error.what
    assert error.remedy
    assert {"host": "db-old", "pid": 4711, "attempt": "ab" * 16}.items() <= error.facts.items()
    (phase,) = world.told.phases
    assert phase.startswith("waiting to see whether the backup of db-old (process 4711, since 2")
    holder.release()
    assert world.record()["seconds"] == 0


def test_a_silent_holder_is_waited_for_as_long_as_it_says_and_no_longer(world: World) -> None:
    world.put(seconds=60)
    assert 60 <= world.acquire(world.lease()) < 62
    assert world.record()["by"]["host"] == "db-new"
    assert "db-old (process 12" in world.told.notes[0]


@pytest.mark.parametrize("at", ["1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
def test_no_wall_clock_is_believed(world: World, at: str) -> None:
    world.put(at=at, since=at)
    assert 60 <= world.acquire(world.lease()) < 62


def test_a_holder_that_gives_up_while_it_is_watched_makes_room(world: World) -> None:
    holder = world.lease("db-old")
    world.acquire(holder)
    world.after(5, holder.release)
    assert 5 <= world.acquire(world.lease()) < 7
    assert world.told.notes == []


def test_a_lease_that_is_removed_while_it_is_watched_makes_room(world: World) -> None:
    world.put()
    world.after(5, lambda: world.store.delete([KEY]))
    assert 5 <= world.acquire(world.lease()) < 7


def test_a_third_who_takes_the_expired_lease_first_is_seen(world: World) -> None:
    world.put()
    world.after(59, lambda: world.put(by={"host": "db-third"}))
    error, took = world.refused(world.lease())
    assert took < 61
    assert error.facts["host"] == "db-third"


def test_a_damaged_lease_is_nobodys_after_a_minute(world: World) -> None:
    world.store.put(KEY, b"not a record")
    assert 60 <= world.acquire(world.lease()) < 62
    assert world.record()["seconds"] == 60


def test_a_damaged_lease_that_changes_is_somebodys(world: World) -> None:
    world.store.put(KEY, b"not a record")
    world.after(10, lambda: world.store.put(KEY, b"nor this"))
    error, took = world.refused(world.lease())
    assert 10 <= took < 12
    assert "somebody unknown" in error.what


@pytest.mark.parametrize("seconds", [True, -1, "60", None, float("nan")])
def test_a_lease_that_does_not_say_how_long_it_holds_is_damaged(world: World, seconds: Any) -> None:
    world.put(seconds=seconds)
    assert 60 <= world.acquire(world.lease()) < 62


@pytest.mark.parametrize("seconds", [1e9, float("inf"), 10**400], ids=["years", "inf", "huge"])
def test_no_lease_keeps_backups_away_for_more_than_ten_minutes(world: World, seconds: Any) -> None:
    world.put(seconds=seconds)
    assert 600 <= world.acquire(world.lease()) < 602


def test_what_a_record_only_tells_may_be_malformed(world: World) -> None:
    world.put(since="never", start="x", boot=1, by={"host": 3, "pid": "x"})
    assert 60 <= world.acquire(world.lease()) < 62
    assert "an unknown host (process 0)" in world.told.phases[0]


def test_a_lease_of_a_newer_format_is_refused(world: World) -> None:
    record = build_record("lease", {}, at=AT, by={})
    line = record.partition(b"\n")[0].replace(b'"pgkeep": 1', b'"pgkeep": 2') + b"\n"
    world.store.put(KEY, line + b"blake3 " + blake3(line).hexdigest().encode() + b"\n")
    with pytest.raises(FormatTooNew):
        world.lease().acquire()


# -- holding it -----------------------------------------------------------------------------------


def test_it_is_renewed_when_it_is_time_and_calls_between_cost_nothing() -> None:
    faulty = FaultyStore(MemoryStore())
    world = World(faulty)
    lease = world.lease()
    world.acquire(lease)
    before = faulty.count("*", KEY)
    for _ in range(30):
        lease.renew()
        world.now += 1
    assert faulty.count("*", KEY) - before == 1
    assert world.record()["renewals"] == 1
    lease.renew()
    assert world.record()["renewals"] == 2
    assert not lease.lost


def test_the_time_since_when_it_is_held_does_not_change(world: World) -> None:
    lease = world.lease()
    world.acquire(lease)
    since = world.record()["since"]
    world.now += 20
    lease.renew()
    assert world.record()["since"] == since


def test_who_lost_it_goes_on_is_warned_once_and_disturbs_nobody(world: World) -> None:
    lease = world.lease()
    world.acquire(lease)
    world.put()
    for _ in range(3):
        world.now += 20
        lease.renew()
    assert lease.lost
    (warning,) = world.told.warnings
    assert "db-old (process 12" in warning
    lease.release()
    assert world.record()["by"]["host"] == "db-old"
    assert world.record()["seconds"] == 60


def test_who_finds_it_removed_is_warned_too(world: World) -> None:
    lease = world.lease()
    world.acquire(lease)
    world.store.delete([KEY])
    world.now += 20
    lease.renew()
    assert lease.lost
    assert "somebody unknown" in world.told.warnings[0]


def test_a_store_that_fails_for_a_while_costs_no_lease() -> None:
    faulty = FaultyStore(MemoryStore())
    world = World(faulty)
    lease = world.lease()
    world.acquire(lease)
    faulty.fail(Fault(Failure.UNAVAILABLE, "replace", KEY, times=2))
    for _ in range(3):
        world.now += 20
        lease.renew()
    assert world.record()["renewals"] == 1
    assert (lease.lost, world.told.warnings) == (False, [])


def test_a_renewal_whose_answer_was_lost_is_recognised() -> None:
    faulty = FaultyStore(MemoryStore())
    world = World(faulty)
    lease = world.lease()
    world.acquire(lease)
    faulty.fail(Fault(Failure.LOST_ANSWER, "replace", KEY))
    for _ in range(3):
        world.now += 20
        lease.renew()
    assert not lease.lost
    lease.release()
    assert world.record()["seconds"] == 0


def test_taking_it_again_after_a_lost_answer_finds_it_ours() -> None:
    faulty = FaultyStore(MemoryStore(), [Fault(Failure.LOST_ANSWER, "put", KEY)])
    world = World(faulty)
    lease = world.lease()
    with pytest.raises(StoreUnavailable):
        lease.acquire()
    assert world.acquire(lease) == 0
    lease.release()
    assert world.record()["seconds"] == 0


def test_a_store_that_fails_at_the_end_makes_no_error_of_a_backup() -> None:
    faulty = FaultyStore(MemoryStore())
    world = World(faulty)
    lease = world.lease()
    world.acquire(lease)
    faulty.fail(Fault(Failure.UNAVAILABLE, "replace", KEY, times=None))
    lease.release()
    faulty.heal()
    assert world.record()["seconds"] == 60


@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_it_is_given_up_however_the_work_ends(
    world: World, ending: type[BaseException] | None
) -> None:
    class Stop(Exception):
        pass

    with pytest.raises(ending or Stop), holding(world.lease()):  # noqa: PT012
        assert world.record()["seconds"] == 60
        raise (ending or Stop)
    assert world.record()["seconds"] == 0
    assert not any(thread.name == "lease" for thread in threading.enumerate())


def test_while_the_work_hangs_in_a_single_call_it_is_renewed() -> None:
    told, store = Told(), MemoryStore()
    by = {"host": "here", "pid": 1, "version": "0"}
    lease = Lease(store, LAYOUT, attempt="ab" * 16, by=by, progress=told, seconds=0.04)
    with holding(lease):
        until(lambda: parse_record(store.get(KEY), KEY, kind="lease")["renewals"] >= 4)


# -- stores that know no lease --------------------------------------------------------------------


@pytest.mark.parametrize("able", [(True, False), (False, True)])
def test_without_compare_and_swap_there_is_no_lease_and_a_note(able: tuple[bool, bool]) -> None:
    world = World(MemoryStore(capabilities=Capabilities(*able)))
    with holding(world.lease()), holding(world.lease()):
        assert not world.store.exists(KEY)
    assert len(world.told.notes) == 2  # one each


def test_a_store_that_denies_the_lease_does_not_hinder_the_backup() -> None:
    faulty = FaultyStore(MemoryStore(), [Fault(Failure.DENIED, "*", KEY, times=None)])
    world = World(faulty)
    with holding(world.lease()):
        pass
    (warning,) = world.told.warnings
    assert "denies the lease" in warning


def test_a_lease_that_is_free_and_cannot_be_replaced_is_an_error(world: World) -> None:
    """As when a store's tags differ between its answers."""
    world.put(seconds=0)
    replace = world.store.replace
    world.store.replace = lambda key, data, *, etag: replace(key, data, etag=etag + "x")  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="cannot be replaced"):
        world.lease().acquire()


# -- two at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.parametrize("found", ["absent", "given up", "expired", "damaged"])
def test_of_those_who_come_at_once_exactly_one_wins(tmp_path: Path, kind: str, found: str) -> None:
    store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "repo", create=True)
    if found == "damaged":
        store.put(KEY, b"damaged")
    elif found != "absent":
        World(store).put(seconds=0 if found == "given up" else 0.3)
    together, outcomes = threading.Barrier(4), []

    def contend(number: int) -> None:
        by = {"host": f"host-{number}", "pid": number, "version": "0"}
        lease = Lease(
            store, LAYOUT, attempt=f"{number:032x}", by=by, progress=Silent(), seconds=2.0
        )
        together.wait(60)
        try:
            with holding(lease):
                outcomes.append("won")
                until(lambda: len(outcomes) == 4)
        except BackupRunning:
            outcomes.append("refused")

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["refused"] * 3 + ["won"]
    assert parse_record(store.get(KEY), KEY, kind="lease")["seconds"] == 0


def test_a_lease_of_this_process_is_watched_like_any_other(world: World) -> None:
    """A program that makes two backups at once does not take the first one's lease from it."""
    holder = Lease(
        world.store,
        LAYOUT,
        attempt="cd" * 16,
        by={"host": "here", "pid": os.getpid(), "version": "0"},
        progress=Silent(),
    )
    holder.acquire()
    assert world.record()["start"] == this_process("here").start
    assert 60 <= world.acquire(world.lease("here")) < 62


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
