"""A silence is one for all calls: they end together, and it is told once."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from pgkeep.errors import ObjectNotFound, StoreUnavailable
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.outage import Outages
from pgkeep.storage.retry import RetryingStore
from pgkeep.storage.stop import Stop

DEADLINE, FIRST = 600.0, 5.0
AWAY = Fault(Failure.UNAVAILABLE, times=None)


class World:
    """A store that may be away, and who hears of it; time goes on while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.heard: list[str] = []
        self.faulty = FaultyStore(MemoryStore())
        self.outages = Outages(first_seconds=FIRST, listener=self)
        self.store = RetryingStore(
            self.faulty,
            deadline_seconds=DEADLINE,
            clock=lambda: self.now,
            sleep=self._sleep,
            outages=self.outages,
        )

    def away(self, error: StoreUnavailable, most_seconds: float) -> None:
        self.heard.append(f"away for at most {most_seconds:.0f} s: {error.what}")

    def back(self, seconds: float) -> None:
        self.heard.append("back")

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def fails_after(self) -> float:
        """How many seconds a call takes to fail."""
        began = self.now
        with pytest.raises(StoreUnavailable):
            self.store.get("a")
        return self.now - began


@pytest.fixture
def world() -> World:
    return World()


def test_a_store_that_never_answered_is_left_soon(world: World) -> None:
    world.faulty.fail(AWAY)
    assert world.fails_after() == pytest.approx(FIRST)
    assert len(world.heard) == 1
    assert "away for at most 5 s: Cannot get a" in world.heard[0]


@pytest.mark.parametrize("answer", ["no such object", "an empty listing", "a denial"])
def test_any_answer_shows_that_the_store_is_there(world: World, answer: str) -> None:
    if answer == "no such object":
        with pytest.raises(ObjectNotFound):
            world.store.get("a")
    elif answer == "an empty listing":
        assert not [*world.store.list()]
    else:
        world.faulty.fail(Fault(Failure.DENIED))
        with pytest.raises(Exception, match="denied"):
            world.store.head("a")
    world.faulty.fail(AWAY)
    assert world.fails_after() == pytest.approx(DEADLINE)


def test_after_a_silence_that_was_too_long_every_other_call_is_tried_once(world: World) -> None:
    world.store.put("a", b"")
    world.faulty.fail(AWAY)
    assert world.fails_after() == pytest.approx(DEADLINE)
    count = world.faulty.count()
    assert [world.fails_after() for _ in range(3)] == [0, 0, 0]
    assert world.faulty.count() == count + 3
    world.faulty.heal()
    world.store.get("a")
    world.faulty.fail(AWAY)
    assert world.fails_after() == pytest.approx(DEADLINE)


def test_a_call_that_begins_in_a_silence_ends_with_it(world: World) -> None:
    world.store.put("a", b"")
    world.faulty.fail(AWAY)
    world.outages.failed(world.now)
    world.now += 400
    assert world.fails_after() == pytest.approx(DEADLINE - 400)


def test_one_call_that_always_fails_ends_although_others_succeed(world: World) -> None:
    world.store.put("a", b"")
    world.faulty.fail(AWAY._replace(key="a"))
    sleep = world._sleep

    def sleep_and_ask(seconds: float) -> None:
        sleep(seconds)
        assert not [*world.store.list("b")]

    world.store._sleep = sleep_and_ask
    assert world.fails_after() == pytest.approx(DEADLINE)


def test_a_hiccup_is_not_worth_a_word(world: World) -> None:
    world.store.put("a", b"")
    for _ in range(5):
        world.faulty.fail(Fault(Failure.UNAVAILABLE, times=3))
        world.store.get("a")
    assert world.heard == []


def test_an_outage_is_told_once_and_its_end_too(world: World) -> None:
    world.store.put("a", b"")
    for _ in range(2):
        world.faulty.fail(Fault(Failure.UNAVAILABLE, times=12))
        world.store.get("a")
        assert [word.partition(" ")[0] for word in world.heard] == ["away", "back"]
        world.heard.clear()
    world.faulty.fail(Fault(Failure.LOST_ANSWER, "list", times=12))
    assert [info.key for info in world.store.list()] == ["a"]
    assert [word.partition(" ")[0] for word in world.heard] == ["away", "back"]


def test_many_threads_hear_of_it_once() -> None:
    heard: list[str] = []

    class Listener:
        def away(self, error: StoreUnavailable, most_seconds: float) -> None:
            heard.append("away")

        def back(self, seconds: float) -> None:
            heard.append("back")

    faulty = FaultyStore(MemoryStore())
    faulty.store.put("a", b"")
    store = RetryingStore(
        faulty, deadline_seconds=60, outages=Outages(listener=Listener()), random=lambda: 0.5
    )
    faulty.fail(AWAY)
    threads = [threading.Thread(target=store.get, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(3.5)
    faulty.heal()
    for thread in threads:
        thread.join(20)
    assert heard == ["away", "back"]


def test_who_has_failed_lets_nobody_wait(world: World) -> None:
    world.store.put("a", b"")
    store = RetryingStore(world.faulty, deadline_seconds=DEADLINE)
    sibling = store.with_deadline(DEADLINE)
    world.faulty.fail(AWAY)
    ended: list[float] = []

    def wait() -> None:
        with pytest.raises(StoreUnavailable):
            sibling.get("a")
        ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    store.stop_waiting()
    thread.join(20)
    assert ended
    assert ended[0] - began < 2


def test_a_stop_may_be_set_by_a_signal_that_comes_while_it_is_waited_for() -> None:
    stop = Stop()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        timer.start()
        began = time.monotonic()
        assert stop.wait(20)
        assert time.monotonic() - began < 2
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
