"""How long a WAL command tries again, and what makes it stop sooner.

The whole attempt is repeated, opening the store included (which a store that retries its own
calls cannot do): a file system that is not mounted yet and a bucket that times out are the same
to the server. Repeating is harmless, because objects are created only if absent, and what is there
already is compared by content.

Waiting happens in short slices. Between them the caller's ``give_up`` is asked, which lets
``wal-push`` notice that the server is shutting down: a fast shutdown waits for the archiver, and
the archiver for us, up to six times.
"""

from __future__ import annotations

import os
import time

from pgkeep.errors import PgkeepError, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_SLICE_SECONDS = 0.1


class Patience:
    """Tries an action again until ``seconds`` after ``started`` (of ``clock``).

    ``passing`` are the errors that may pass by themselves, each with the most seconds that it
    is worth; others are raised at once. ``pause`` and ``clock`` are given by tests.
    """

    def __init__(
        self,
        seconds: float,
        *,
        started: float | None = None,
        passing: dict[type[PgkeepError], float] | None = None,
        give_up: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._started = clock() if started is None else started
        self._passing: dict[type[PgkeepError], float] = {StoreUnavailable: seconds}
        self._passing.update(passing or {})
        self._most = seconds
        self._give_up = give_up or (lambda: False)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def run(self, action: Callable[[], T]) -> T:
        """The action's result, or its last error when the time is over."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return action()
            except PgkeepError as error:
                if not self._wait(pause, self._limit(error)):
                    raise
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _limit(self, error: PgkeepError) -> float:
        worth = [limit for kind, limit in self._passing.items() if isinstance(error, kind)]
        return min(max(worth), self._most) if worth else 0.0

    def _wait(self, pause: float, limit: float) -> bool:
        """Wait for about ``pause`` seconds; False if there is no time left for another try."""
        if self.elapsed >= limit or self._give_up():
            return False
        # Half to all of the pause; the random module would take longer to import than to wait.
        part = 0.5 + int.from_bytes(os.urandom(2)) / 2**17
        wake = min(self.elapsed + pause * part, limit)
        while self.elapsed < wake:
            self._pause(max(0.0, min(_SLICE_SECONDS, wake - self.elapsed)))
            if self._give_up():
                return False
        return self.elapsed < limit
