"""Many stores read as one: each object from the first that has it, and listings of all together.

For reading what several repositories keep of the same cluster. An object is asked for in the order
of the stores, and of the next one when a store lacks it or cannot be reached. "Not found" is said
only when every store has said so: one that was silent may have it, and then its silence is the
error. A listing tells what any of them has; one that cannot be reached makes it shorter, which is
said once, and is an error only when none can be reached.

A store that was silent is asked last for a while, so that its silence is not waited for again with
each object.

Bytes that turn out to be damaged are found out above, by whoever opens them: see
:func:`read_sound`.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from pgkeep.errors import DamagedObject, ObjectNotFound, PgkeepError, StoreError
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, Store

_T = TypeVar("_T")
_ASKED_LAST_SECONDS = 30.0


class FallbackStore(Store):
    """``stores``, best first. ``tell`` gets a sentence for people, each once; any thread calls
    it. What is written (a pin) goes to each that takes it."""

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        tell: Callable[[str], object] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stores = tuple(stores)
        self.url = stores[0].url
        self.request_bytes = max(store.request_bytes for store in stores)
        self._tell, self._clock = tell, clock
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._silent: dict[int, float] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self.stores[0].capabilities

    def get(self, key: str) -> bytes:
        return self._first(lambda store: store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._first(lambda store: store.get_range(key, start, length))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        return self._first(lambda store: store.get_ranges(key, ranges))

    def head(self, key: str) -> ObjectInfo:
        return self._first(lambda store: store.head(key))

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """What any of them has, each key once, as the first that has it tells it."""
        last = None
        for info in self._merged(prefix, start_after):
            if info.key != last:
                last = info.key
                yield info

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """Into each that takes it; raises the first error when none does."""
        done, problems = [], []
        for store in self.stores:
            try:
                done.append(store.put(key, data, if_absent=if_absent))
            except StoreError as error:
                problems.append(error)
        if not done:
            raise problems[0]
        return done[0]

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        return self.stores[0].replace(key, data, etag=etag)

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """From all; of a key's results the worst is told."""
        wanted = list(keys)
        results: dict[str, StoreError | None] = dict.fromkeys(wanted)
        for store in self.stores:
            for key, problem in store.delete(wanted).items():
                results[key] = results[key] or problem
        return results

    def stop_waiting(self) -> None:
        for store in self.stores:
            store.stop_waiting()

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def read_elsewhere(self, key: str, read: Callable[[Store], _T], error: DamagedObject) -> _T:
        """What ``read`` makes of another store's copy, after ``error``; else ``error``."""
        for store in self.stores:
            try:
                found = read(store)
            except (DamagedObject, StoreError):
                continue
            self._say(f"{error.what} The copy in {store.url} is sound, and was used instead.")
            return found
        raise error

    def _first(self, ask: Callable[[Store], _T]) -> _T:
        absent: ObjectNotFound | None = None
        problem: StoreError | None = None
        for number in self._order():
            try:
                return ask(self.stores[number])
            except ObjectNotFound as error:
                absent = absent or error
            except StoreError as error:
                problem = problem or error
                self._note(number, error)
        raise problem or absent or AssertionError

    def _order(self) -> Sequence[int]:
        numbers = range(len(self.stores))
        if not self._silent:
            return numbers
        now = self._clock()
        with self._lock:
            late = {n for n, until in self._silent.items() if now < until}
        return sorted(numbers, key=lambda number: (number in late, number))

    def _note(self, number: int, error: StoreError) -> None:
        with self._lock:
            self._silent[number] = self._clock() + _ASKED_LAST_SECONDS
        self._say_away(number, error)

    def _say_away(self, number: int, error: PgkeepError) -> None:
        url = self.stores[number].url
        self._say(
            f"{url} cannot be read, and is left aside while others have it. {error.what}", url
        )

    def _say(self, text: str, once: str | None = None) -> None:
        with self._lock:
            is_new = (once or text) not in self._told
            self._told.add(once or text)
        if is_new:
            self._tell(text)

    def _merged(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        problems: list[StoreError] = []

        def listing(number: int) -> Iterator[tuple[str, int, ObjectInfo]]:
            try:
                for info in self.stores[number].list(prefix, start_after=start_after):
                    yield info.key, number, info
            except StoreError as error:
                problems.append(error)
                self._note(number, error)

        for _, _, info in heapq.merge(*(listing(number) for number in range(len(self.stores)))):
            yield info
        if len(problems) == len(self.stores):
            raise problems[0]


def stores_of(store: Store) -> Sequence[Store]:
    """The stores that are read as this one, each by itself; the store alone if it is one."""
    found = _unwrapped(store)
    return (store,) if found is None else found.stores


def read_sound(store: Store, key: str, read: Callable[[Store], _T]) -> _T:
    """``read(store)``; when that says ``DamagedObject``, what it makes of another copy of ``key``.

    Raises what ``read`` raised first, when no other store has a sound copy.
    """
    try:
        return read(store)
    except DamagedObject as error:
        found = _unwrapped(store)
        if found is None or len(found.stores) < 2:
            raise
        return found.read_elsewhere(key, read, error)


def _unwrapped(store: Store) -> FallbackStore | None:
    """The many stores below those that only retry."""
    inner: Store | None = store
    while inner is not None and not isinstance(inner, FallbackStore):
        inner = getattr(inner, "store", None)
    return inner
