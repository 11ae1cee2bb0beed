"""One store that leads, and others that are given the same objects while they are at hand.

What is worth writing to all at once (packs, history files) is put into the lead and, at the same
time, into each mirror; everything else concerns the lead alone. So a source is read once however
many stores there are.

A mirror is not in the way for long. It gets a copy of the bytes, so that the lead waits for none;
only when several are on their way to it is it waited for, since memory is bounded. One that gets
none of them done for a while hangs, and is dropped, as is one that fails for longer than it is
tried; which is said once. What it lacks then it is given later, by copying. So a put says of
mirrors nothing, and means the lead only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pgkeep.errors import ObjectExists, PgkeepError, StoreUnavailable
from pgkeep.storage.interface import Buffer, Store, views_of
from pgkeep.storage.wrapped import WrappedStore

PUTS_AT_ONCE = 4
"""Copies of a pack that are held for one mirror at most."""
STALL_SECONDS = 60.0
"""For so long a mirror may get nothing done before it counts as hanging."""


class FannedMirror:
    """A mirror of a :class:`FanOutStore`; ``problem`` is why it was dropped, if it was."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store
        self.problem: PgkeepError | None = None
        self._changed = threading.Condition()
        self._under_way = 0
        self._moved = time.monotonic()

    def wait_for(self, most: int, *, stall_seconds: float) -> bool:
        """Wait until at most so many puts are under way; False if it is dropped or hangs."""
        with self._changed:
            while self._under_way > most and self.problem is None:
                left = self._moved + stall_seconds - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return self.problem is None

    def begin(self) -> None:
        with self._changed:
            if not self._under_way:
                self._moved = time.monotonic()
            self._under_way += 1

    def end(self, problem: PgkeepError | None) -> bool:
        """A put has ended; whether this was the first problem."""
        with self._changed:
            self._under_way -= 1
            self._moved = time.monotonic()
            is_first = problem is not None and self.problem is None
            self.problem = self.problem or problem
            self._changed.notify_all()
        return is_first

    def drop(self, problem: PgkeepError) -> bool:
        """Give it nothing more; whether this was the first problem."""
        with self._changed:
            is_first, self.problem = self.problem is None, self.problem or problem
            self._changed.notify_all()
        return is_first


class FanOutStore(WrappedStore):
    """``lead``, whose puts of keys that hold one of ``through`` go to the ``mirrors``, too, but for
    those that end with one of ``lead_only``: what says that all else is there.

    ``dropped`` is told once of each mirror that failed; it may be called from any thread.
    """

    def __init__(
        self,
        lead: Store,
        mirrors: Mapping[str, Store],
        *,
        through: Sequence[str],
        lead_only: Sequence[str] = (),
        dropped: Callable[[str, PgkeepError], object],
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        super().__init__(lead)
        self.mirrors = [FannedMirror(name, store) for name, store in mirrors.items()]
        self._through, self._dropped = tuple(through), dropped
        self._lead_only = tuple(lead_only)
        self._stall_seconds = stall_seconds

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`, of the lead. ``data`` is the caller's again on return."""
        if any(part in key for part in self._through) and not key.endswith(self._lead_only):
            self._give(key, data)
        return self.store.put(key, data, if_absent=if_absent)

    def settle(self) -> None:
        """Return when all that was given to the mirrors is there; those that hang are dropped."""
        for mirror in self.mirrors:
            self._wait_for(mirror, 0)

    def _give(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        whole: bytes | None = None
        for mirror in self.mirrors:
            if self._wait_for(mirror, PUTS_AT_ONCE - 1):
                whole = b"".join(views_of(data)) if whole is None else whole
                mirror.begin()
                # Nobody waits for such a thread at the end: one that hangs may do so for minutes.
                threading.Thread(
                    target=self._put,
                    args=(mirror, key, whole),
                    name=f"mirror-{mirror.name}",
                    daemon=True,
                ).start()

    def _wait_for(self, mirror: FannedMirror, most: int) -> bool:
        if mirror.wait_for(most, stall_seconds=self._stall_seconds):
            return True
        hanging = StoreUnavailable(
            f"{mirror.store.url} got nothing done for {self._stall_seconds:.0f} s.",
            remedy="See whether it is overloaded, or what stands between it and this host.",
        )
        if mirror.drop(hanging):
            self._dropped(mirror.name, hanging)
        return False

    def _put(self, mirror: FannedMirror, key: str, data: bytes) -> None:
        problem: PgkeepError | None = None
        try:
            if mirror.problem is None:
                mirror.store.put(key, data, if_absent=True)
        except ObjectExists:
            pass  # whether it is the same is seen by whoever copies
        except PgkeepError as error:
            problem = error
        except BaseException as error:
            problem = StoreUnavailable(f"{mirror.store.url} could not be written to: {error}")
        if mirror.end(problem) and problem is not None:
            self._dropped(mirror.name, problem)

    def impatient(self) -> Store:
        """See :meth:`Store.impatient`; the lead alone."""
        return self.store.impatient()

    def stop_waiting(self) -> None:
        """See :meth:`Store.stop_waiting`; of all."""
        for mirror in self.mirrors:
            mirror.store.stop_waiting()
        self.store.stop_waiting()

    def close(self) -> None:
        """Close all of them but mirrors that hang."""
        self.settle()
        for mirror in self.mirrors:
            if mirror.problem is None:
                mirror.store.close()
        self.store.close()
