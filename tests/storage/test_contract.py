"""Every store keeps the contract, and wearing a decorator does not change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.storage import Store
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.local import LocalStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.retry import RetryingStore
from tests.object_stores import object_service
from tests.storage.contract import StoreContract, come_and_go


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


class ObjectStoreContract(StoreContract):
    """The contract on a server that others wrote; each test has a bucket of its own."""

    service: str
    # S3's etag is a hash of the content.
    etags_tell_writes = False

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Iterator[Store]:
        running = object_service(request, self.service)
        store = ObjectStore(running.new_place(), running.options)
        yield store
        store.close()


class TestMoto(ObjectStoreContract):
    service = "moto"


class TreeContract(ObjectStoreContract):
    """Of servers that keep a directory tree, and may refuse an object while its directory is empty
    for a moment, and being removed. So here it never is."""

    def test_writers_and_deleters_of_one_directory_do_not_disturb_each_other(
        self, store: Store
    ) -> None:
        store.put("deep/er/stays", b"")
        come_and_go(store)
        assert [info.key for info in store.list()] == ["deep/er/stays"]


class TestVersityGateway(TreeContract):
    service = "versitygw"


class TestMinio(TreeContract):
    service = "minio"


class TestGoogleEmulator(ObjectStoreContract):
    service = "fake-gcs-server"


class TestAzureEmulator(ObjectStoreContract):
    service = "azurite"
