"""What all calls of one store know together of its being away.

Each call has a deadline of its own, but a store that is silent is silent for all of them. So the
silence has one, too: when a hundred calls meet it one after the other, they end together, and
not each of them after waiting as long again. Whatever is called afterwards (a lease is given back,
a pin removed) is tried once.

A store that never answered is left much sooner. It is far more often a wrong URL than an outage.

People are told once, when somebody has waited for a while, and once more when nobody waits.
"""

from __future__ import annotations

# The lock of ``threading``, without what importing that costs a program which stores one segment.
from _thread import allocate_lock
from math import inf
from typing import TYPE_CHECKING, Protocol

from pgkeep.storage.stop import Stop

if TYPE_CHECKING:
    from pgkeep.errors import StoreUnavailable

TELL_AFTER_SECONDS = 2.0


class Listener(Protocol):
    """Who wants to know. Called from any thread."""

    def away(self, error: StoreUnavailable, most_seconds: float) -> None:
        """The store does not answer, which ``error`` says; it is tried again for so long."""

    def back(self, seconds: float) -> None:
        """It answers again, after so long."""


class Outages:
    """The silences of one store. All moments are seconds of its users' monotonic clock.

    ``first_seconds`` is how long a store is tried that has not answered yet. ``stop`` ends all
    waiting.
    """

    def __init__(
        self,
        *,
        first_seconds: float = inf,
        stop: Stop | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.stop = stop or Stop()
        self._first_seconds = first_seconds
        self._listener = listener
        self._lock = allocate_lock()
        self._was_reached = False
        self._silent_since: float | None = None
        self._waiting = 0
        self._told_since: float | None = None

    def answered(self) -> None:
        """The store said something, if only no."""
        with self._lock:
            self._was_reached, self._silent_since = True, None

    def failed(self, since: float) -> None:
        """It did not answer an attempt that began at ``since``."""
        with self._lock:
            if self._silent_since is None:
                self._silent_since = since

    def left_seconds(self, deadline_seconds: float, *, now: float) -> float:
        """How much longer its silence is borne, if one is for ``deadline_seconds``."""
        with self._lock:
            most = self._most(deadline_seconds)
            return most if self._silent_since is None else self._silent_since + most - now

    def begin_waiting(self) -> None:
        """A call is going to be tried again."""
        with self._lock:
            self._waiting += 1

    def waits(self, error: StoreUnavailable, deadline_seconds: float, *, since: float) -> None:
        """A call which began at ``since`` is tried again for longer than goes without saying."""
        with self._lock:
            if self._told_since is not None:
                return
            self._told_since = since
            most = self._most(deadline_seconds)
        if self._listener is not None:
            self._listener.away(error, most)

    def end_waiting(self, *, is_answered: bool, now: float) -> None:
        """A call that was tried again has its answer, or is given up."""
        with self._lock:
            self._waiting -= 1
            since = self._told_since
            if self._waiting or since is None:
                return
            self._told_since = None
        if is_answered and self._listener is not None:
            self._listener.back(now - since)

    def _most(self, deadline_seconds: float) -> float:
        return deadline_seconds if self._was_reached else min(deadline_seconds, self._first_seconds)
