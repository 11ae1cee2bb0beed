"""A flag that ends waiting, in whatever thread.

Not ``threading.Event``: that takes a lock, and a signal handler that sets it would wait for ever
when the signal comes while the main thread holds the very lock, in ``wait``.
"""

from __future__ import annotations

import time

_SLICE_SECONDS = 0.1


class Stop:
    """May be set from a signal handler, once and for good; whoever waits looks every tenth of a
    second."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Let nobody wait any more."""
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait; True if it is set, before or meanwhile."""
        end = time.monotonic() + seconds
        while not self._is_set and (left := end - time.monotonic()) > 0:
            time.sleep(min(_SLICE_SECONDS, left))
        return self._is_set
