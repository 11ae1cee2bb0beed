"""How many round trips to a store somebody waits for, and how many requests he makes.

Requests that are made together (``storage/together.py``) are made here one after the other, in one
thread, and count as one round trip, or as many as the longest of their chains. So the figure is
exact, and no clock is asked.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from pgkeep.errors import StoreError
from pgkeep.storage.interface import Buffer, ObjectInfo, Store
from pgkeep.storage.wrapped import WrappedStore


class Rounds(WrappedStore):
    """``store``, counted. ``trips`` are those that were waited for, ``requests`` are all."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(store)
        self.trips = self.requests = 0
        self.log: list[str] = []
        rounds = self

        class Pool:
            """In the place of a pool of threads."""

            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def __enter__(self) -> Pool:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def map(self, call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
                begin = end = rounds.trips
                found = []
                for item in items:
                    rounds.trips = begin
                    found.append(call(item))
                    end = max(end, rounds.trips)
                rounds.trips = end
                return found

        monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)

    def begin(self) -> None:
        """Count from here."""
        self.trips = self.requests = 0
        self.log.clear()

    def _ask(self, what: str, key: str) -> None:
        self.trips += 1
        self.requests += 1
        self.log.append(f"{self.trips} {what} {key}")

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        self._ask("put", key)
        return self.store.put(key, data, if_absent=if_absent)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        self._ask("replace", key)
        return self.store.replace(key, data, etag=etag)

    def get(self, key: str) -> bytes:
        self._ask("get", key)
        return self.store.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._ask("get", key)
        return self.store.get_range(key, start, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        self._ask("get", key)
        return self.store.get_ranges(key, ranges)

    def head(self, key: str) -> ObjectInfo:
        self._ask("head", key)
        return self.store.head(key)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._ask("list", prefix)
        return self.store.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        wanted = [*keys]
        self._ask("delete", wanted[0] if wanted else "")
        return self.store.delete(wanted)
