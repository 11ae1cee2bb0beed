"""What is certainly wanted is asked for at once, and answers exactly what was asked."""

from __future__ import annotations

import threading

import pytest

from pgkeep.cli import wal_session
from pgkeep.config import load_settings
from pgkeep.errors import ObjectNotFound, StoreDenied
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.read_ahead import ReadAheadStore
from tests.backup.site import until
from tests.storage.contract import StoreContract


class TestReadAhead(StoreContract):
    @pytest.fixture
    def store(self) -> ReadAheadStore:
        return ReadAheadStore(MemoryStore(), keys=[], newest=[])


class Gathering(MemoryStore):
    """Answers only when so many requests are there at once."""

    def __init__(self, requests: int) -> None:
        super().__init__()
        self.together: threading.Barrier | None = None
        self.requests = requests

    def get(self, key: str) -> bytes:
        if self.together is not None:
            self.together.wait(20)
        return super().get(key)


def filled(store: MemoryStore) -> MemoryStore:
    for key in ("own", "keys/1", "keys/2", "systems/1"):
        store.put(key, key.encode())
    return store


def test_all_are_under_way_at_once() -> None:
    store = Gathering(3)
    filled(store)
    store.together = threading.Barrier(3)
    ahead = ReadAheadStore(store, keys=["own"], newest=["keys/", "systems/"])
    assert ahead.get("own") == b"own"
    assert [info.key for info in ahead.list("keys/")] == ["keys/1", "keys/2"]
    assert ahead.get("keys/2") == b"keys/2"
    assert [info.key for info in ahead.list("systems/")] == ["systems/1"]
    assert ahead.get("systems/1") == b"systems/1"


def test_an_answer_is_given_once() -> None:
    store = FaultyStore(filled(MemoryStore()))
    ahead = ReadAheadStore(store, keys=["own"], newest=["keys/"])
    assert ahead.get("own") == b"own"
    assert len([*ahead.list("keys/")]) == 2
    store.store.put("own", b"changed")
    store.store.put("keys/3", b"")
    assert ahead.get("own") == b"changed"
    assert len([*ahead.list("keys/")]) == 3
    assert [info.key for info in ahead.list("keys/", start_after="keys/1")] == ["keys/2", "keys/3"]


def test_a_failure_is_told_to_who_asks() -> None:
    store = FaultyStore(filled(MemoryStore()), [Fault(Failure.DENIED, method="list")])
    ahead = ReadAheadStore(store, keys=["absent"], newest=["keys/"])
    with pytest.raises(ObjectNotFound):
        ahead.get("absent")
    with pytest.raises(StoreDenied):
        ahead.list("keys/")
    assert len([*ahead.list("keys/")]) == 2


def test_only_what_a_command_reads_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """wal-fetch does not read the systems; nobody asks a directory ahead; and a store that was
    only opened, for a file that was pushed ahead, is asked nothing."""
    store = FaultyStore(filled(MemoryStore()))
    monkeypatch.setattr("pgkeep.storage.open_store", lambda *_: store)
    far = load_settings({"PGKEEP_REPO": "s3://bucket/pg"})
    near = load_settings({"PGKEEP_REPO": "file:///srv/pg"})
    opened = wal_session.open_store_of(far)
    assert not store.calls
    wal_session.ask_ahead(opened, near, cluster="main")
    assert not store.calls
    wal_session.ask_ahead(opened, far)
    until(lambda: len(store.calls) == 2, what="identity and keys are asked for")
    assert set(store.calls) == {("get", "pgkeep/repository"), ("list", "pgkeep/keys/")}
    wal_session.ask_ahead(opened, far, cluster="orders")
    until(lambda: store.count("list", "orders/systems/") == 1, what="the systems, too")
