"""What a check finds: an object, what is wrong with it, and what breaks by it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Problem(NamedTuple):
    """``backups`` cannot be restored by it; ``windows`` are stretches of time or WAL that are
    cut. With neither, a second copy or something that nobody needs now is concerned."""

    key: str
    what: str
    backups: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()

    @property
    def effect(self) -> str:
        parts = []
        if self.backups:
            shown = ", ".join(self.backups[:5])
            more = f" and {len(self.backups) - 5} more" if len(self.backups) > 5 else ""
            parts.append(
                f"breaks {'backup' if len(self.backups) == 1 else 'backups'} {shown}{more}"
            )
        parts += self.windows
        return "; ".join(parts) or "no listed backup depends on it alone"

    def __str__(self) -> str:
        return f"{self.key}: {self.what} ({self.effect})"

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "effect": self.effect}
