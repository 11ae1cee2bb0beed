"""The store on an SFTP server keeps the contract, all but compare-and-swap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgkeep.errors import ObjectNotFound, PreconditionFailed, StoreError
from pgkeep.storage import Store
from pgkeep.storage.retry import RetryingStore
from tests.sshd import Sshd
from tests.storage.contract import StoreContract
from tests.storage.sftp import open_store


class WithoutSwap(StoreContract):
    """Instead of what the contract says of compare-and-swap: it is refused."""

    def test_compare_and_swap_swaps_only_what_was_compared(self, store: Store) -> None:
        assert not store.capabilities.compare_and_swap
        etag = store.put("lease", b"first")
        with pytest.raises(StoreError, match="nobody else replaces it"):
            store.replace("lease", b"second", etag=etag)
        with pytest.raises(PreconditionFailed):
            store.replace("lease", b"second", etag="another")
        with pytest.raises(ObjectNotFound):
            store.replace("absent", b"second", etag=etag)
        assert store.get("lease") == b"first"

    def test_an_etag_never_comes_back_with_other_content(self, store: Store) -> None:
        """It may, within a second; another size is another etag at least."""
        assert store.put("object", b"1") != store.put("object", b"22")

    # There is none to lose.
    test_no_swap_is_lost_among_threads = None  # type: ignore[assignment]


class TestSftp(WithoutSwap):
    @pytest.fixture
    def store(self, sshd: Sshd) -> Iterator[Store]:
        store = open_store(sshd)
        yield store
        store.close()


class TestRetryingSftp(WithoutSwap):
    @pytest.fixture
    def store(self, sshd: Sshd) -> Iterator[Store]:
        store = RetryingStore(open_store(sshd), deadline_seconds=10)
        yield store
        store.close()
