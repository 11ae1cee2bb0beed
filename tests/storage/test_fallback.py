"""Many stores read as one: what is absent, what is silent, and what is damaged."""

from __future__ import annotations

import pytest

from pgkeep.errors import DamagedObject, ObjectNotFound, StoreUnavailable
from pgkeep.storage.absent import AbsentStore
from pgkeep.storage.fallback import FallbackStore, read_sound
from pgkeep.storage.fanout import FanOutStore
from pgkeep.storage.faults import Failure, Fault
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.interface import Store
from pgkeep.storage.memory import MemoryStore

SILENT = AbsentStore("memory://silent", StoreUnavailable("It does not answer."))


def stores(*contents: dict[str, bytes]) -> list[MemoryStore]:
    made = []
    for number, objects in enumerate(contents):
        store = MemoryStore(f"memory://{number}")
        for key, data in objects.items():
            store.put(key, data)
        made.append(store)
    return made


def test_each_object_comes_from_the_first_that_has_it() -> None:
    store = FallbackStore(stores({"a": b"0", "b": b"0"}, {"b": b"1", "c": b"1"}))
    assert [store.get(key) for key in "abc"] == [b"0", b"0", b"1"]
    assert [info.key for info in store.list()] == ["a", "b", "c"]
    with pytest.raises(ObjectNotFound):
        store.head("d")


def test_absent_is_said_only_when_every_store_said_so() -> None:
    said: list[str] = []
    store = FallbackStore([*stores({"a": b"0"}), SILENT], tell=said.append)
    assert store.get("a") == b"0"
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.get("b")
    assert [info.key for info in store.list()] == ["a"]
    assert len(said) == 1
    with pytest.raises(StoreUnavailable):
        list(FallbackStore([SILENT, SILENT]).list())


def test_a_damaged_copy_is_replaced_by_a_sound_one_and_said() -> None:
    said: list[str] = []
    store = FallbackStore(stores({"a": b"bad"}, {}, {"a": b"good"}), tell=said.append)

    def read(one: Store) -> bytes:
        data = one.get("a")
        if data != b"good":
            raise DamagedObject("a is damaged.")
        return data

    assert read_sound(store, "a", read) == b"good"
    assert "memory://2 is sound" in said[0]
    with pytest.raises(DamagedObject):
        read_sound(FallbackStore(stores({"a": b"bad"}, {"a": b"bad"})), "a", read)


def test_a_mirror_that_fails_is_dropped_once_and_the_lead_goes_on() -> None:
    lead, good, bad = stores({}, {}, {})
    failing = FaultyStore(bad, [Fault(Failure.DENIED, method="put", times=None)])
    dropped: list[str] = []
    store = FanOutStore(
        lead,
        {"good": good, "bad": failing},
        through=("/packs/",),
        dropped=lambda name, error: dropped.append(name),
    )
    for number in range(5):
        store.put(f"x/packs/{number}", b"data", if_absent=True)
    store.put("x/manifests/1", b"data")
    store.close()
    assert dropped == ["bad"]
    assert len(list(lead.list())) == 6
    assert [info.key for info in good.list()] == [f"x/packs/{n}" for n in range(5)]
