"""Every store keeps the contract, and wearing a decorator does not change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.storage import Store
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.local import LocalStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.retry import RetryingStore
from tests.storage.contract import StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestLocal(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = LocalStore(tmp_path / "repository", create=True)
        yield store
        store.close()


class TestRetryingMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return RetryingStore(MemoryStore(), deadline_seconds=10)


class TestRetryingLocal(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = RetryingStore(LocalStore(tmp_path / "r", create=True), deadline_seconds=10)
        yield store
        store.close()


class TestFaultyWithoutFaults(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return FaultyStore(MemoryStore())
