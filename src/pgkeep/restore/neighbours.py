"""What was met in WAL while a transaction or a restore point was looked for in vain.

Whoever mistyped a number or a name, or asks for what is no longer stored, sees what is near.
"""

from __future__ import annotations

from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.postgres.wal_record import TRANSACTION_ENDS, WalEvent, WalEventKind
from pgkeep.restore.plan import show_moment_exactly

_MOST = 20
_HALF = 1 << 31


class Neighbours:
    """Told of every event of a search, it remembers those next to the target."""

    def __init__(self, target: RecoveryTarget) -> None:
        self._target = target
        self._before: tuple[int, WalEvent] | None = None
        self._after: tuple[int, WalEvent] | None = None
        self._points: dict[str, WalEvent] = {}
        self.itself: WalEvent | None = None
        """The target, met where it is of no use: before a backup is consistent."""

    def note(self, event: WalEvent) -> None:
        value = self._target.value
        if self._target.kind == "name" and event.kind is WalEventKind.RESTORE_POINT:
            self._points[event.name or ""] = event
            if event.name == value:
                self.itself = event
        elif self._target.kind == "xid" and event.kind in TRANSACTION_ENDS and event.xid:
            assert isinstance(value, int)
            # Numbers go round: whichever way is shorter is meant.
            ahead = (event.xid - value) & 0xFFFFFFFF
            if ahead == 0:
                self.itself = event
            elif ahead < _HALF and (self._after is None or ahead < self._after[0]):
                self._after = (ahead, event)
            elif ahead >= _HALF and (self._before is None or -ahead < self._before[0]):
                self._before = (-ahead, event)

    def sentence(self) -> str:
        """The nearest that can be named; empty where there is nothing."""
        if self._target.kind == "name":
            names = [f"{name!r}{_at(event)}" for name, event in list(self._points.items())[-_MOST:]]
            return f"Restore points in it: {', '.join(names)}." if names else ""
        near = [f"{found[1].xid}{_at(found[1])}" for found in (self._before, self._after) if found]
        return f"The nearest transactions in it: {', '.join(near)}." if near else ""


def _at(event: WalEvent) -> str:
    return f" ({show_moment_exactly(event.time)})" if event.time is not None else ""
