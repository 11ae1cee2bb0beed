"""A store that fails as planned: what the tests of everything above wear over a real store.

A plan is a list of :class:`Fault`; each says on which calls it strikes, and how. What real
stores do, and what careless code gets wrong, is above all the fault *after the commit*: the
write happened, and the answer was lost.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from threading import Lock
from typing import TypeVar

from pgkeep.errors import StoreError
from pgkeep.storage.faults import RAISED
from pgkeep.storage.faults import Failure as Failure
from pgkeep.storage.faults import Fault as Fault
from pgkeep.storage.faults import random_faults as random_faults
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, Store, views_of

_Result = TypeVar("_Result")


class FaultyStore(Store):
    """``store``, failing by plan. ``calls`` counts all calls by method and key."""

    def __init__(
        self,
        store: Store,
        plan: Iterable[Fault] = (),
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.store = store
        self.url, self.request_bytes = store.url, store.request_bytes
        self.calls: Counter[tuple[str, str]] = Counter()
        self._plan = list(plan)
        self._seen = [0] * len(self._plan)
        self._sleep = sleep
        self._lock = Lock()

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities

    def fail(self, fault: Fault) -> None:
        """Add to the plan; the calls that ``fault`` skips are counted from now."""
        with self._lock:
            self._plan.append(fault)
            self._seen.append(0)

    def heal(self) -> None:
        """Forget the plan, keep the counts."""
        with self._lock:
            self._plan.clear()
            self._seen.clear()

    def count(self, method: str = "*", key: str = "*") -> int:
        """How many calls of ``method`` there were on keys like ``key``."""
        with self._lock:
            return sum(n for call, n in self.calls.items() if _matches(call, method, key))

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        struck = self._strike("put", key)
        if struck is Failure.FORGOTTEN:
            return "forgotten"
        if struck is Failure.HALF:
            data = _half(b"".join(views_of(data)))
        etag = self.store.put(key, data, if_absent=if_absent)
        return self._answered(struck, "put", key, etag)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        struck = self._strike("replace", key)
        if struck is Failure.FORGOTTEN:
            return "forgotten"
        if struck is Failure.HALF:
            data = _half(bytes(data))
        etag = self.store.replace(key, data, etag=etag)
        return self._answered(struck, "replace", key, etag)

    def get(self, key: str) -> bytes:
        return self._read("get", key, lambda: self.store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._read("get_range", key, lambda: self.store.get_range(key, start, length))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """What is truncated or flipped is the last of the pieces."""
        struck = self._strike("get_ranges", key)
        pieces = self._answered(struck, "get_ranges", key, self.store.get_ranges(key, ranges))
        return [*pieces[:-1], *(_spoilt(struck, bytes(piece)) for piece in pieces[-1:])]

    def head(self, key: str) -> ObjectInfo:
        struck = self._strike("head", key)
        return self._answered(struck, "head", key, self.store.head(key))

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """A lost answer and a truncated listing both break off after half of the objects, one
        with an error and one without."""
        struck = self._strike("list", prefix)
        found = [*self.store.list(prefix, start_after=start_after)]
        if struck in (Failure.LOST_ANSWER, Failure.TRUNCATED):
            yield from found[: len(found) // 2]
            if struck is Failure.LOST_ANSWER:
                raise self._error(struck, "list", prefix)
            return
        if struck is Failure.STALE and found:
            found.remove(max(found, key=lambda info: (info.modified, info.key)))
        yield from found

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        results: dict[str, StoreError | None] = {}
        for key in keys:
            try:
                struck = self._strike("delete", key)
                if struck is Failure.FORGOTTEN:
                    results[key] = None
                    continue
                results[key] = self.store.delete([key])[key]
                self._answered(struck, "delete", key, None)
            except StoreError as error:
                results[key] = error
        return results

    def stop_waiting(self) -> None:
        self.store.stop_waiting()

    def close(self) -> None:
        self.store.close()

    def _read(self, method: str, key: str, read: Callable[[], bytes]) -> bytes:
        struck = self._strike(method, key)
        return _spoilt(struck, self._answered(struck, method, key, read()))

    def _answered(self, struck: Failure | None, method: str, key: str, result: _Result) -> _Result:
        """The result of what was done, unless that is what gets lost."""
        if struck is Failure.LOST_ANSWER:
            raise self._error(struck, method, key)
        return result

    def _strike(self, method: str, key: str) -> Failure | None:
        """Count the call; raise what fails before it; return what happens after it."""
        fault = self._next_fault(method, key)
        if fault is None:
            return None
        if fault.seconds:
            self._sleep(fault.seconds)
        if fault.failure in RAISED and fault.failure is not Failure.LOST_ANSWER:
            raise self._error(fault.failure, method, key)
        return fault.failure

    def _next_fault(self, method: str, key: str) -> Fault | None:
        struck = None
        with self._lock:
            self.calls[method, key] += 1
            for place, fault in enumerate(self._plan):
                if not _matches((method, key), fault.method, fault.key):
                    continue
                self._seen[place] += 1
                turn = self._seen[place] - fault.skip
                if struck is None and turn > 0 and (fault.times is None or turn <= fault.times):
                    struck = fault
        return struck

    def _error(self, failure: Failure, method: str, key: str) -> StoreError:
        return RAISED[failure](
            f"Cannot {method} {key} in {self.url}.",
            why=f"A test planned this: {failure.value}.",
            remedy="Mend the test's plan.",
            key=key,
        )


def _matches(call: tuple[str, str], method: str, key: str) -> bool:
    return fnmatchcase(call[0], method) and fnmatchcase(call[1], key)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _spoilt(struck: Failure | None, data: bytes) -> bytes:
    """What arrives of ``data``."""
    if struck is Failure.TRUNCATED:
        return _half(data)
    if struck is Failure.FLIPPED and data:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
    return data
