"""What a store says it has stored is looked at."""

from __future__ import annotations

import pytest

from pgkeep.errors import ObjectExists, StoreError
from pgkeep.storage.checked import CheckedStore
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.retry import RetryingStore


@pytest.fixture
def faulty() -> FaultyStore:
    return FaultyStore(MemoryStore("memory://here"))


@pytest.mark.parametrize("failure", [Failure.FORGOTTEN, Failure.HALF])
def test_a_put_that_was_not_kept_is_an_error_and_the_next_one_works(
    faulty: FaultyStore, failure: Failure
) -> None:
    faulty.fail(Fault(failure, "put"))
    store = CheckedStore(faulty)
    with pytest.raises(StoreError) as caught:
        store.put("a/b", [b"con", b"tent"], if_absent=True)
    assert caught.value.exit_code == 40
    assert "a/b" in caught.value.what
    assert "memory://here" in caught.value.what
    assert caught.value.remedy
    store.put("a/b", b"content", if_absent=True)
    assert faulty.store.get("a/b") == b"content"


def test_what_was_there_before_is_never_taken_away(faulty: FaultyStore) -> None:
    faulty.store.put("a", b"another's")
    store = CheckedStore(faulty)
    with pytest.raises(ObjectExists):
        store.put("a", b"ours", if_absent=True)
    faulty.fail(Fault(Failure.FORGOTTEN, "put"))
    with pytest.raises(StoreError):
        store.put("a", b"ours")
    assert faulty.store.get("a") == b"another's"


def test_one_that_took_its_place_meanwhile_stays(faulty: FaultyStore) -> None:
    """As that of a lease whose holder was asleep between its two requests."""

    put = faulty.store.put

    def put_and_be_replaced(key: str, data: bytes, *, if_absent: bool = False) -> str:
        etag = put(key, data, if_absent=if_absent)
        put(key, b"of another holder")
        return etag

    faulty.store.put = put_and_be_replaced  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError):
        CheckedStore(faulty).put("lease", b"ours", if_absent=True)
    assert faulty.store.get("lease") == b"of another holder"


def test_below_retries_a_lost_answer_is_still_a_success(faulty: FaultyStore) -> None:
    store = RetryingStore(CheckedStore(faulty), deadline_seconds=60, sleep=lambda _: None)
    faulty.fail(Fault(Failure.LOST_ANSWER, "put"))
    faulty.fail(Fault(Failure.UNAVAILABLE, "head", skip=1))
    store.put("a", b"content", if_absent=True)
    store.put("b", b"content", if_absent=True)
    assert [info.key for info in store.list()] == ["a", "b"]
