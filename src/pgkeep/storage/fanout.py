"""One store that leads, and others that are given the same objects while they are at hand.

What is worth writing to all at once (packs, history files) is put into the lead and, at the same
time, into each mirror; everything else concerns the lead alone. So a source is read once however
many stores there are, and its bytes are held only until the slowest of them has them.

A mirror is never in the way for long: it is tried again for less time than the lead, and the first
time that it fails it is dropped, which is said once. What it lacks then it is given later, by
copying. So a put says of mirrors nothing, and means the lead only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pgkeep.errors import ObjectExists, PgkeepError
from pgkeep.storage.interface import Buffer, Store
from pgkeep.storage.wrapped import WrappedStore

_PUTS_AT_ONCE = 16


class FannedMirror:
    """A mirror of a :class:`FanOutStore`; ``problem`` is why it was dropped, if it was."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store
        self.problem: PgkeepError | None = None
        # A mirror of its own threads: one that is slow keeps nobody from the others.
        self.pool = ThreadPoolExecutor(_PUTS_AT_ONCE, thread_name_prefix=f"mirror-{name}")


class FanOutStore(WrappedStore):
    """``lead``, whose puts of keys that hold one of ``through`` go to the ``mirrors``, too.

    ``dropped`` is told once of each mirror that failed; it may be called from any thread.
    """

    def __init__(
        self,
        lead: Store,
        mirrors: Mapping[str, Store],
        *,
        through: Sequence[str],
        dropped: Callable[[str, PgkeepError], object],
    ) -> None:
        super().__init__(lead)
        self.mirrors = [FannedMirror(name, store) for name, store in mirrors.items()]
        self._through, self._dropped = tuple(through), dropped
        self._lock = threading.Lock()

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`, of the lead. Returns when no mirror reads ``data`` any more."""
        if not any(part in key for part in self._through):
            return self.store.put(key, data, if_absent=if_absent)
        puts = [
            mirror.pool.submit(self._put, mirror, key, data)
            for mirror in self.mirrors
            if mirror.problem is None
        ]
        try:
            return self.store.put(key, data, if_absent=if_absent)
        finally:
            _wait(puts)

    def _put(self, mirror: FannedMirror, key: str, data: Buffer | Sequence[Buffer]) -> None:
        if mirror.problem is not None:
            return
        try:
            mirror.store.put(key, data, if_absent=True)
        except ObjectExists:
            pass  # whether it is the same is seen by whoever copies
        except PgkeepError as error:
            self._drop(mirror, error)

    def _drop(self, mirror: FannedMirror, error: PgkeepError) -> None:
        with self._lock:
            is_first, mirror.problem = mirror.problem is None, mirror.problem or error
        if is_first:
            self._dropped(mirror.name, error)

    def impatient(self) -> Store:
        """See :meth:`Store.impatient`; the lead alone."""
        return self.store.impatient()

    def stop_waiting(self) -> None:
        """See :meth:`Store.stop_waiting`; of all."""
        for mirror in self.mirrors:
            mirror.store.stop_waiting()
        self.store.stop_waiting()

    def close(self) -> None:
        """Close all of them."""
        for mirror in self.mirrors:
            mirror.pool.shutdown(wait=True)
            mirror.store.close()
        self.store.close()


def _wait(puts: Iterable[Future[None]]) -> None:
    """Until all have ended; raises what was no failure of a store."""
    problems = [error for put in puts if (error := put.exception()) is not None]
    if problems:
        raise problems[0]
