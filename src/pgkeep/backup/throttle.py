"""Being a good neighbour on a database host: a limit on the reading rate, and low priority."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

_NICENESS = 10
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_BEST_EFFORT_LOWEST = (2 << 13) | 7
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}


class RateLimit:
    """Lets ``bytes_per_second`` pass, over all threads; None lets everything pass.

    Who would exceed the rate sleeps, until :meth:`stop`. Time that nobody used is not saved up
    beyond a second.
    """

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._stopped = threading.Event()
        self._rate, self._clock = bytes_per_second, clock
        self._sleep = sleep or self._stopped.wait
        self._lock = threading.Lock()
        self._due = clock()

    def spend(self, size_bytes: int) -> None:
        """Account for bytes that are about to be read, sleeping as long as that takes."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now - 1.0) + size_bytes / self._rate
            wait = self._due - now
        if wait > 0 and not self._stopped.is_set():
            self._sleep(wait)

    def stop(self) -> None:
        """Wake up whoever sleeps, for the copy is given up."""
        self._stopped.set()


def lower_priority() -> None:
    """Let the server go first: nice 10, lowest best-effort I/O class. Whatever is refused is
    left."""
    with contextlib.suppress(OSError):
        os.nice(max(0, _NICENESS - os.nice(0)))
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_BEST_EFFORT_LOWEST)
