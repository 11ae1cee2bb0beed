"""Work that takes days keeps its pins alive, whatever the store does in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.errors import StoreUnavailable
from pgkeep.mirror.guarding import Guard
from pgkeep.mirror.member import Member
from pgkeep.progress import Silent
from pgkeep.repository import pin_life
from pgkeep.restore.pinning import pinned
from pgkeep.storage.interface import Store
from pgkeep.storage.local import LocalStore
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import BY, LAYOUT, make_repository
from tests.server_user import server_user
from tests.servers import new_directory


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin_life, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(pin_life, "_AGAIN_SECONDS", 0.01)


def numbers(store: Store) -> list[int]:
    return [int(info.key.rpartition("/")[2]) for info in store.list(LAYOUT.pins)]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_restore_renews_its_pin_and_leaves_none(tmp_path: Path) -> None:
    folder = new_directory("pins")
    store = LocalStore(folder, create=True)
    repository, _ = make_repository(tmp_path, store=store)
    for path in (folder, *folder.rglob("*")):
        server_user().own(path)
    with pinned(repository, LAYOUT, "20261120T120000Z", by=BY, progress=Silent()):
        (first,) = store.list(LAYOUT.pins)
        wait_for(lambda: [*store.list(LAYOUT.pins)][-1].modified > first.modified)
        owners = {path.stat().st_uid for path in folder.rglob("*")}
        assert owners == {folder.stat().st_uid}
    assert numbers(store) == []


def test_a_store_that_is_away_for_a_while_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    repository, _ = make_repository(tmp_path, store=store)
    put, tried = store.put, list[str]()

    def fail_twice(key: str, *args: object, **more: object) -> str:
        tried.append(key)
        if len(tried) in (2, 3):
            raise StoreUnavailable("away")
        return put(key, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "put", fail_twice)
    with pinned(repository, LAYOUT, "20261120T120000Z", by=BY, progress=Silent()):
        wait_for(lambda: len(tried) >= 5)
    assert len(set(tried)) == len(tried)
    assert numbers(store) == []


def test_a_copy_renews_the_pins_of_what_it_copies() -> None:
    store = MemoryStore()
    guard = Guard(Member("second", store), LAYOUT, BY)
    with guard.pinned(["ab" * 16, "cd" * 16]):
        wait_for(lambda: sorted(numbers(store))[-2:] == [3, 3] or max(numbers(store)) > 3)
