"""The store that fails by plan fails exactly by plan, or other tests prove nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pgkeep.errors import ObjectNotFound, StoreDenied, StoreFull, StoreUnavailable
from pgkeep.storage.faulty import Failure, Fault, FaultyStore, random_faults
from pgkeep.storage.memory import MemoryStore


def test_before_sending_nothing_happens_and_after_the_commit_it_has_happened() -> None:
    store = FaultyStore(MemoryStore())
    for failure, happened in ((Failure.UNAVAILABLE, False), (Failure.LOST_ANSWER, True)):
        store.fail(Fault(failure, method="put", key=failure.name.lower()))
        with pytest.raises(StoreUnavailable):
            store.put(failure.name.lower(), b"x")
        assert store.store.exists(failure.name.lower()) is happened


def test_a_fault_strikes_the_calls_that_it_names() -> None:
    store = FaultyStore(
        MemoryStore(), [Fault(Failure.DENIED, method="put", key="a/*", skip=1, times=2)]
    )
    store.put("b/1", b"")
    store.put("a/1", b"")
    store.get("a/1")
    for _ in range(2):
        with pytest.raises(StoreDenied):
            store.put("a/2", b"")
    store.put("a/2", b"")
    assert store.count("put", "a/*") == 4
    assert store.count("get") == 1
    assert store.calls["put", "b/1"] == 1


def test_every_failure_is_what_it_says() -> None:
    slept: list[float] = []
    store = FaultyStore(MemoryStore(), sleep=slept.append)
    store.put("a/1", b"12345678")
    store.put("a/2", b"12345678")
    for failure, expected in ((Failure.FULL, StoreFull), (Failure.ABSENT, ObjectNotFound)):
        store.fail(Fault(failure))
        with pytest.raises(expected):
            store.get("a/1")
    store.fail(Fault(Failure.SLOW, seconds=3))
    assert store.get("a/1") == b"12345678"
    assert slept == [3]
    store.fail(Fault(Failure.TRUNCATED, times=4))
    assert store.get("a/1") == b"1234"
    assert store.get_range("a/1", 2, 4) == b"34"
    assert store.get_ranges("a/1", [(0, 4), (4, 4)]) == [b"1234", b"56"]
    assert [info.key for info in store.list()] == ["a/1"]
    store.heal()
    assert [info.key for info in store.list()] == ["a/1", "a/2"]


def test_a_delete_fails_key_by_key() -> None:
    store = FaultyStore(MemoryStore(), [Fault(Failure.DENIED, method="delete", key="b")])
    for key in "abc":
        store.put(key, b"")
    result = store.delete("abc")
    assert [type(result[key]) for key in "abc"] == [type(None), StoreDenied, type(None)]
    assert [info.key for info in store.list()] == ["b"]


def test_a_seed_is_a_plan() -> None:
    kinds = [Failure.UNAVAILABLE, Failure.SLOW]
    plan = random_faults(7, count=20, within=10, failures=kinds)
    assert plan == random_faults(7, count=20, within=10, failures=kinds)
    assert plan != random_faults(8, count=20, within=10, failures=kinds)
    assert {fault.failure for fault in plan} == {*kinds}


def test_the_memory_store_tells_the_time_of_its_clock() -> None:
    then = datetime(2026, 11, 20, 2, 0, 4, tzinfo=UTC)
    store = MemoryStore(clock=lambda: then)
    store.put("a", b"")
    assert store.head("a").modified == then
