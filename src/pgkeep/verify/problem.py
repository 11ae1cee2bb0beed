"""What a check finds: an object, what is wrong with it, and what breaks by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgkeep.errors import PgkeepError
from pgkeep.repository.checks import QUICK, Finding

_BACKUPS_NAMED = 5


class Problem(NamedTuple):
    """``backups`` cannot be restored by it; ``flawed`` ones can, with what was damaged when it was
    stored; ``windows`` are stretches of time or WAL that are cut. With none of them a second copy
    or something that nobody needs now is concerned. ``level`` is the lowest that sees it."""

    key: str
    what: str
    backups: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    level: str = QUICK
    flawed: tuple[str, ...] = ()

    @property
    def effect(self) -> str:
        parts = []
        if self.backups:
            parts.append(f"breaks {_names(self.backups)}")
        if self.flawed:
            parts.append(f"{_names(self.flawed)} can be restored, and will have that")
        parts += self.windows
        return "; ".join(parts) or "no listed backup depends on it alone"

    @property
    def finding(self) -> Finding:
        """As a record names it."""
        return Finding(self.level, self.what, bool(self.flawed))

    def __str__(self) -> str:
        return f"{self.key}: {self.what} ({self.effect})"

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "effect": self.effect}


def _names(backups: Sequence[str]) -> str:
    shown = ", ".join(backups[:_BACKUPS_NAMED])
    rest = len(backups) - _BACKUPS_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f"{'backup' if len(backups) == 1 else 'backups'} {shown}{more}"


def what_of(error: Exception, key: str) -> str:
    """What an error says of an object, behind its key."""
    what = error.what if isinstance(error, PgkeepError) else str(error)
    return what.removeprefix(f"{key} is damaged: ").removesuffix(".")
