"""How long a pin lives, and renewing one for work that may take longer (format, section 2.4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from pgkeep.errors import PgkeepError

PIN_LIFE = timedelta(hours=72)
"""By the store's clock, from when its newest number was stored."""
RENEW_SECONDS = 6 * 3600.0
_AGAIN_SECONDS = 600.0


@contextmanager
def renewing(renew: Callable[[], None]) -> Iterator[None]:
    """Call ``renew`` every six hours while the block runs, from a thread of its own.

    A ``PgkeepError`` of it is tried again ten minutes later, and not raised: a pin outlives many.
    """
    ended = threading.Event()

    def work() -> None:
        wait = RENEW_SECONDS
        while not ended.wait(wait):
            try:
                renew()
                wait = RENEW_SECONDS
            except PgkeepError:
                wait = _AGAIN_SECONDS

    thread = threading.Thread(target=work, name="pin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
