"""A store that is another one but for some of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pgkeep.errors import StoreError
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, Store


class WrappedStore(Store):
    """Hands every call to ``store``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url, self.request_bytes = store.url, store.request_bytes

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        return self.store.put(key, data, if_absent=if_absent)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        return self.store.replace(key, data, etag=etag)

    def get(self, key: str) -> bytes:
        return self.store.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.store.get_range(key, start, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        return self.store.get_ranges(key, ranges)

    def head(self, key: str) -> ObjectInfo:
        return self.store.head(key)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return self.store.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        return self.store.delete(keys)

    def stop_waiting(self) -> None:
        self.store.stop_waiting()

    def close(self) -> None:
        self.store.close()
