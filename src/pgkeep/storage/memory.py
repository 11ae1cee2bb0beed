"""A store in memory: what the interface promises, in its plainest form, for tests.

It is as strict as any store gets (every method is one step, nothing is ever stale), so it is
what the contract suite is read against. The clock is the *store's* clock, and injectable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from pgkeep.errors import StoreError
from pgkeep.storage._problems import no_object, object_exists, replaced_before
from pgkeep.storage.interface import (
    Buffer,
    Capabilities,
    ObjectInfo,
    Store,
    check_key,
    views_of,
)


def _now() -> datetime:
    return datetime.now(UTC)


class MemoryStore(Store):
    """Objects in a dictionary. ``clock`` stamps ``modified``; ``capabilities`` are as said."""

    def __init__(
        self,
        url: str = "memory://",
        *,
        clock: Callable[[], datetime] = _now,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.url = url
        self._clock = clock
        self._capabilities = capabilities or Capabilities(
            conditional_create=True, compare_and_swap=True, durable=False
        )
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._writes = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        check_key(key)
        content = b"".join(views_of(data))
        with self._lock:
            if if_absent and key in self._objects:
                raise object_exists(key, self.url)
            return self._write(key, content)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        content = b"".join(views_of(data))
        with self._lock:
            if self._find(key)[0].etag != etag:
                raise replaced_before(key, self.url)
            return self._write(key, content)

    def get(self, key: str) -> bytes:
        with self._lock:
            return self._find(key)[1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise StoreError(f"A range of {length} bytes from {start} is not possible.")
        return self.get(key)[start : start + length]

    def head(self, key: str) -> ObjectInfo:
        with self._lock:
            return self._find(key)[0]

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        with self._lock:
            found = [info for info, _ in self._objects.values()]
        for info in sorted(found):
            if info.key.startswith(prefix) and (start_after is None or info.key > start_after):
                yield info

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        results: dict[str, StoreError | None] = {}
        for key in keys:
            try:
                check_key(key)
            except StoreError as error:
                results[key] = error
                continue
            with self._lock:
                self._objects.pop(key, None)
            results[key] = None
        return results

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise no_object(key, self.url) from None

    def _write(self, key: str, content: bytes) -> str:
        self._writes += 1
        info = ObjectInfo(key, len(content), self._clock(), f"write-{self._writes}")
        self._objects[key] = (info, content)
        return info.etag
