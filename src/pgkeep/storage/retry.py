"""The one retry policy: jittered exponential back-off with a deadline.

Only ``StoreUnavailable`` is tried again. Everything else is an answer, and asking again would
give the same. The deadline bounds the waiting: an attempt that is under way at the deadline
runs to its end, for how long is the store's own limit, and no other begins after it. What several
calls have to do with each other while a store is away is in ``outage``.

What makes retrying writes hard is the attempt that succeeded while its answer was lost. Its
echo is "there is an object already" or "the etag is another one"; so after an unanswered
attempt of our own, and only then, we read back and compare. Equal content is our success. (For
``replace`` this needs content that no other writer could have written; a lease names its
holder.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
)
from pgkeep.storage._tries import Tries
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, Store, views_of
from pgkeep.storage.outage import Outages

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 15.0
_COMPARED_AT_ONCE_BYTES = 32 * 1024 * 1024


def _random() -> float:
    # The random module takes longer to import than wal-push has for everything else.
    return int.from_bytes(os.urandom(4)) / 2**32


class Cancelled(Protocol):
    """A flag that ends waiting, as ``Stop`` and ``threading.Event`` are."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, seconds: float, /) -> bool: ...


class RetryingStore(Store):
    """``store``, each call of which is tried for up to ``deadline_seconds``.

    ``clock`` is monotonic, in seconds; ``random`` yields [0, 1). Setting ``cancelled`` (by default
    the stop of ``outages``) ends any waiting: the call raises what its last attempt raised.
    """

    def __init__(
        self,
        store: Store,
        *,
        deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        random: Callable[[], float] = _random,
        cancelled: Cancelled | None = None,
        outages: Outages | None = None,
    ) -> None:
        self.store = store
        self.url, self.request_bytes = store.url, store.request_bytes
        self.deadline_seconds = deadline_seconds
        self.outages = outages or Outages()
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._cancelled: Cancelled = cancelled or self.outages.stop

    @property
    def capabilities(self) -> Capabilities:
        return Tries(self).run(lambda: self.store.capabilities)

    def with_deadline(self, seconds: float) -> RetryingStore:
        """The same store with another deadline for each call; both share their connections."""
        return RetryingStore(
            self.store,
            deadline_seconds=seconds,
            clock=self._clock,
            sleep=self._sleep,
            random=self._random,
            cancelled=self._cancelled,
            outages=self.outages,
        )

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`. ``ObjectExists`` is never the echo of this very call."""
        tries = Tries(self)

        def attempt() -> str:
            try:
                return self.store.put(key, data, if_absent=if_absent)
            except ObjectExists:
                mine = self._if_same(key, data) if tries.failures else None
                if mine is None:
                    raise
                return mine

        return tries.run(attempt)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        """See :meth:`Store.replace`. ``PreconditionFailed`` is never the echo of this call."""
        tries = Tries(self)

        def attempt() -> str:
            try:
                return self.store.replace(key, data, etag=etag)
            except PreconditionFailed:
                mine = self._if_same(key, data) if tries.failures else None
                if mine is None:
                    raise
                return mine

        return tries.run(attempt)

    def get(self, key: str) -> bytes:
        return Tries(self).run(lambda: self.store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return Tries(self).run(lambda: self.store.get_range(key, start, length))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        return Tries(self).run(lambda: self.store.get_ranges(key, ranges))

    def head(self, key: str) -> ObjectInfo:
        return Tries(self).run(lambda: self.store.head(key))

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`. Goes on after the last key seen; the deadline is for each
        stretch without any."""
        tries = Tries(self)
        try:
            while True:
                try:
                    for info in self.store.list(prefix, start_after=start_after):
                        start_after = info.key
                        tries.answered()
                        yield info
                        tries = Tries(self)
                    tries.answered()
                    return
                except StoreUnavailable as error:
                    tries.wait_after(error)
                except StoreError:
                    tries.answered()
                    raise
        finally:
            tries.end()

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """See :meth:`Store.delete`. Only what is still to be deleted is tried again."""
        results: dict[str, StoreError | None] = dict.fromkeys(keys)
        left = [*results]
        tries = Tries(self)
        while left:
            try:
                results.update(self.store.delete(left))
            except StoreUnavailable as error:
                results.update(dict.fromkeys(left, error))
            failed = {key: problem for key in left if (problem := _passing(results[key]))}
            if len(failed) < len(left):
                tries.answered()
            left = [*failed]
            if left and not tries.wait(failed[left[0]]):
                break
        tries.end()
        return results

    def impatient(self) -> Store:
        """See :meth:`Store.impatient`."""
        return self.with_deadline(0)

    def stop_waiting(self) -> None:
        """See :meth:`Store.stop_waiting`. Siblings stop, too."""
        self._cancelled.set()

    def close(self) -> None:
        """Close the store underneath, which sibling views use too."""
        self.store.close()

    def _if_same(self, key: str, data: Buffer | Sequence[Buffer]) -> str | None:
        """The object's etag, if its content is ``data``."""
        views = views_of(data)
        try:
            info = self.store.head(key)
        except ObjectNotFound:
            return None
        if info.size_bytes != sum(len(view) for view in views):
            return None
        start = 0
        for view in views:
            for offset in range(0, len(view), _COMPARED_AT_ONCE_BYTES):
                mine = bytes(view[offset : offset + _COMPARED_AT_ONCE_BYTES])
                if self.store.get_range(key, start, len(mine)) != mine:
                    return None
                start += len(mine)
        return info.etag

    def wait_seconds(self, failures: int) -> float:
        """How long to wait after so many failures: half to all of a doubling time."""
        full = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + 0.5 * self._random())

    def pause(self, seconds: float) -> bool:
        """Wait; False if cancelled, before or meanwhile."""
        if self._sleep is None:
            return not self._cancelled.wait(seconds)
        if not self._cancelled.is_set():
            self._sleep(seconds)
        return not self._cancelled.is_set()

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return self._clock()


def _passing(problem: StoreError | None) -> StoreUnavailable | None:
    return problem if isinstance(problem, StoreUnavailable) else None
