"""What is asked together is answered as if it had been asked one after the other."""

from __future__ import annotations

import threading

import pytest

from pgkeep.errors import StoreUnavailable
from pgkeep.storage.asked_ahead import AskedAhead
from pgkeep.storage.faults import Failure, Fault
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.retry import RetryingStore
from pgkeep.storage.together import each, together


def test_calls_are_under_way_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=30)
    together(meeting.wait, meeting.wait, meeting.wait)


def test_answers_come_in_the_order_of_the_questions() -> None:
    later = threading.Event()
    assert together(lambda: later.wait(30), later.set) == (True, None)
    assert each(lambda number: number * number, range(100)) == [n * n for n in range(100)]
    assert each(lambda number: number, []) == []


def test_of_several_errors_the_first_is_raised_when_all_have_ended() -> None:
    ended = threading.Event()

    def first() -> None:
        assert ended.wait(30)
        raise KeyError("first")

    def second() -> None:
        ended.set()
        raise ValueError("second")

    with pytest.raises(KeyError, match="first"):
        together(first, second)


@pytest.fixture
def store() -> FaultyStore:
    store = FaultyStore(MemoryStore())
    for name in ("a/1", "a/2", "b"):
        store.put(name, name.encode())
    store.calls.clear()
    return store


def test_what_was_asked_ahead_is_not_asked_again(store: FaultyStore) -> None:
    ahead = AskedAhead(store)
    ahead.ask(objects=["b"], prefixes=["a/"])
    for _ in range(2):
        assert ahead.get("b") == b"b"
        assert [info.key for info in ahead.list("a/")] == ["a/1", "a/2"]
    assert (store.count("get"), store.count("list")) == (1, 1)
    assert ahead.knows("a/")


def test_all_else_is_asked_when_it_is_wanted(store: FaultyStore) -> None:
    ahead = AskedAhead(store)
    ahead.ask(prefixes=["a/"])
    assert ahead.get("a/1") == b"a/1"
    assert [info.key for info in ahead.list("a/", start_after="a/1")] == ["a/2"]
    assert [info.key for info in ahead.list("a")] == ["a/1", "a/2"]
    assert not ahead.knows("a")


def test_an_error_is_told_to_who_wants_the_answer(store: FaultyStore) -> None:
    store.fail(Fault(Failure.DENIED, "*", "*", times=2))
    ahead = AskedAhead(store)
    ahead.ask(objects=["b", "not there"], prefixes=["a/"])
    assert ahead.get("b") == b"b", "what failed may be answered now"
    assert [info.key for info in ahead.list("a/")] == ["a/1", "a/2"]


def test_a_store_that_is_away_is_waited_for_by_who_wants_the_answer_only(
    store: FaultyStore,
) -> None:
    store.fail(Fault(Failure.UNAVAILABLE, "*", "*", times=None))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    patient = RetryingStore(store, deadline_seconds=60, clock=lambda: now[0], sleep=sleep)
    ahead = AskedAhead(patient)
    ahead.ask(objects=["b"])
    assert now[0] == 0
    with pytest.raises(StoreUnavailable):
        ahead.get("b")
    assert now[0] > 30
