"""A store that fails as planned: what the tests of everything above wear over a real store.

A plan is a list of :class:`Fault`; each says on which calls it strikes, and how. What real
stores do, and what careless code gets wrong, is above all the fault *after the commit*: the
write happened, and the answer was lost.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from random import Random
from threading import Lock
from typing import NamedTuple, TypeVar

from pgkeep.errors import ObjectNotFound, StoreDenied, StoreError, StoreFull, StoreUnavailable
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, Store

_Result = TypeVar("_Result")


class Failure(Enum):
    """How a call fails."""

    UNAVAILABLE = "unavailable"  # nothing was sent
    LOST_ANSWER = "lost answer"  # done, and then a time-out: StoreUnavailable
    DENIED = "denied"
    FULL = "full"
    ABSENT = "absent"  # a false "not found"
    BROKEN = "broken"  # a StoreError of no particular kind
    SLOW = "slow"  # works, after ``seconds``
    TRUNCATED = "truncated"  # a read returns the first half; a listing ends after half


_RAISED: dict[Failure, type[StoreError]] = {
    Failure.UNAVAILABLE: StoreUnavailable,
    Failure.LOST_ANSWER: StoreUnavailable,
    Failure.DENIED: StoreDenied,
    Failure.FULL: StoreFull,
    Failure.ABSENT: ObjectNotFound,
    Failure.BROKEN: StoreError,
}


class Fault(NamedTuple):
    """One entry of a plan: calls of ``method`` on keys like ``key`` (both may have ``*``).

    The first ``skip`` matching calls pass, the next ``times`` fail (None: all that follow). For
    a listing the key is the prefix; a delete is one call for each key.
    """

    failure: Failure
    method: str = "*"
    key: str = "*"
    skip: int = 0
    times: int | None = 1
    seconds: float = 0.0


def random_faults(
    seed: int, *, count: int, failures: Sequence[Failure], within: int, method: str = "*"
) -> list[Fault]:
    """A plan of ``count`` faults, each at a random one of the first ``within`` calls."""
    random = Random(seed)
    return [
        Fault(random.choice(failures), method=method, skip=random.randrange(within))
        for _ in range(count)
    ]


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
        self.url = store.url
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

    def put(
        self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False
    ) -> str:
        return self._call("put", key, lambda: self.store.put(key, data, if_absent=if_absent))

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        return self._call("replace", key, lambda: self.store.replace(key, data, etag=etag))

    def get(self, key: str) -> bytes:
        return self._call("get", key, lambda: self.store.get(key), shorten=_half)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._call(
            "get_range", key, lambda: self.store.get_range(key, start, length), shorten=_half
        )

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        return self._call(
            "get_ranges",
            key,
            lambda: self.store.get_ranges(key, ranges),
            shorten=lambda pieces: [*pieces[:-1], *(_half(bytes(piece)) for piece in pieces[-1:])],
        )

    def head(self, key: str) -> ObjectInfo:
        return self._call("head", key, lambda: self.store.head(key))

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """A lost answer and a truncated listing both break off after half of the objects, one
        with an error and one without."""
        struck = self._strike("list", prefix)
        found = [*self.store.list(prefix, start_after=start_after)]
        if struck in (Failure.LOST_ANSWER, Failure.TRUNCATED):
            yield from found[: len(found) // 2]
            if struck is Failure.LOST_ANSWER:
                raise _error(struck, "list", prefix)
            return
        yield from found

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        results: dict[str, StoreError | None] = {}
        for key in keys:
            try:
                results[key] = self._call("delete", key, partial(self._delete_one, key))
            except StoreError as error:
                results[key] = error
        return results

    def close(self) -> None:
        self.store.close()

    def _delete_one(self, key: str) -> StoreError | None:
        return self.store.delete([key])[key]

    def _call(
        self,
        method: str,
        key: str,
        action: Callable[[], _Result],
        *,
        shorten: Callable[[_Result], _Result] | None = None,
    ) -> _Result:
        struck = self._strike(method, key)
        result = action()
        if struck is Failure.LOST_ANSWER:
            raise _error(struck, method, key)
        if struck is Failure.TRUNCATED and shorten is not None:
            return shorten(result)
        return result

    def _strike(self, method: str, key: str) -> Failure | None:
        """Count the call; raise what fails before it; return what happens after it."""
        fault = self._next_fault(method, key)
        if fault is None:
            return None
        if fault.seconds:
            self._sleep(fault.seconds)
        if fault.failure in _RAISED and fault.failure is not Failure.LOST_ANSWER:
            raise _error(fault.failure, method, key)
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


def _matches(call: tuple[str, str], method: str, key: str) -> bool:
    return fnmatchcase(call[0], method) and fnmatchcase(call[1], key)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _error(failure: Failure, method: str, key: str) -> StoreError:
    return _RAISED[failure](
        f"Cannot {method} {key}.", why=f"A test planned this: {failure.value}.", key=key
    )
