"""What ``init`` finds out about a store, and what it says of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from pgkeep.errors import ObjectNotFound, StoreDenied
from pgkeep.setup.probe import StoreProbe, probe_store
from pgkeep.storage import Capabilities, ObjectInfo
from pgkeep.storage._object_trial import try_out
from pgkeep.storage.interface import Buffer
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.object_store import ObjectStore
from tests.object_stores import object_service


class DenyingStore(MemoryStore):
    """As S3 is to those who may not list: what is missing is denied."""

    def head(self, key: str) -> ObjectInfo:
        try:
            return super().head(key)
        except ObjectNotFound as error:
            raise StoreDenied(f"Cannot look at {key}.") from error

    def exists(self, key: str) -> bool:
        try:
            return super().exists(key)
        except StoreDenied:
            return False


class IgnoringStore(MemoryStore):
    """As some gateways are: they do not know conditions, and do not say so either."""

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        return super().put(key, data)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        return super().put(key, data)


def _clock_off_by(seconds: int) -> MemoryStore:
    return MemoryStore(clock=lambda: datetime.now(UTC) - timedelta(seconds=seconds))


def test_a_store_that_denies_what_is_missing_is_found_out() -> None:
    probe = probe_store(DenyingStore())
    assert probe.missing_is_denied
    assert any("s3:ListBucket" in loss for loss in probe.losses)
    assert not probe_store(MemoryStore()).missing_is_denied


def test_a_store_that_ignores_conditions_is_found_out() -> None:
    nothing = Capabilities(conditional_create=False, compare_and_swap=False)
    assert try_out(IgnoringStore()) == nothing
    probe = probe_store(IgnoringStore())
    assert (probe.conditional_create, probe.compare_and_swap) == (False, False)
    assert any("can overwrite each other's WAL" in loss for loss in probe.losses)
    assert any("two backups" in loss for loss in probe.losses)


@pytest.mark.parametrize("seconds", [600, -600])
def test_a_clock_that_differs_is_told(seconds: int) -> None:
    probe = probe_store(_clock_off_by(seconds))
    assert abs(probe.clock_ahead_seconds - seconds) <= 2
    side = "ahead of" if seconds > 0 else "behind"
    assert any(side in loss for loss in probe.losses)


def test_a_small_difference_is_no_loss() -> None:
    assert not any("clock" in loss for loss in probe_store(_clock_off_by(20)).losses)
    assert probe_store(MemoryStore()).clock_ahead_seconds == 0


@pytest.mark.parametrize("name", ["moto", "versitygw", "minio", "fake-gcs-server", "azurite"])
def test_good_stores_lose_nothing(request: pytest.FixtureRequest, name: str) -> None:
    running = object_service(request, name)
    store = ObjectStore(running.new_place(), running.options)
    assert store.capabilities == Capabilities(conditional_create=True, compare_and_swap=True)
    expected = StoreProbe(
        conditional_create=True,
        compare_and_swap=True,
        list_after_write=True,
        durable=True,
        can_overwrite=True,
        can_delete=True,
    )
    assert probe_store(store) == expected
    assert [*store.list()] == []
