"""For how long a command that a person started tries a store again, and what it says meanwhile.

The two commands that the server starts have a patience of their own (``archive/patience.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.storage.outage import Outages
from pgkeep.units import format_duration

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.errors import StoreUnavailable
    from pgkeep.storage.stop import Stop

PATIENCE_SECONDS = 600.0
"""For a store that was there when the command began: time for a server to be restarted."""
FIRST_CONTACT_SECONDS = 5.0
"""For one that was not: then it is rather the URL that is wrong, and a person waits."""


def outages_of(context: Context, stop: Stop) -> Outages:
    """What the store of a command shares among its calls."""
    return Outages(first_seconds=FIRST_CONTACT_SECONDS, stop=stop, listener=_Teller(context))


class _Teller:
    """Says it where the person looks: above the progress if there is one."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def away(self, error: StoreUnavailable, most_seconds: float) -> None:
        reason = " ".join(part for part in (error.what, error.why) if part)
        text = (
            f"The repository does not answer, and is tried again for up to "
            f"{format_duration(most_seconds)}. {reason}"
        )
        (self._context.shown or self._context.output).warn(text)
        self._context.log.warning("store-away", most_seconds=most_seconds)

    def back(self, seconds: float) -> None:
        text = f"The repository answers again, after {format_duration(seconds)}."
        (self._context.shown or self._context.output).tell(text)
        self._context.log.info("store-back", seconds=round(seconds, 1))
