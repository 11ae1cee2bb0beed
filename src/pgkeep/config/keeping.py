"""What is to be kept, as a sentence: ``7 days, 2 backups, 14 daily, 8 weekly``."""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile(r"(\d+)\s+([a-z]+)")
_NAMES = {
    "day": "days",
    "days": "days",
    "backup": "backups",
    "backups": "backups",
    "dump": "backups",
    "dumps": "backups",
    "daily": "daily",
    "weekly": "weekly",
    "monthly": "monthly",
    "yearly": "yearly",
}
_MOST = 100_000


class KeepPolicy(NamedTuple):
    """A window of ``days`` in which any moment can be gone back to, at least so many good
    ``backups``, and the last backup of each of so many days, weeks, months and years."""

    days: int = 7
    backups: int = 2
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __str__(self) -> str:
        return self.sentence("backups")

    def sentence(self, what: str) -> str:
        """As it is written, of ``backups`` or ``dumps``."""
        parts = [f"{self.days} days", f"{self.backups} {what}"]
        parts += [
            f"{count} {name}"
            for name, count in zip(self._fields[2:], self[2:], strict=True)
            if count
        ]
        return ", ".join(parts)


DEFAULT_KEEP = KeepPolicy()
DEFAULT_DUMP_KEEP = KeepPolicy(days=30)


def parse_policy(text: str) -> KeepPolicy:
    """The policy that a sentence says; what it does not mention is not kept for its sake.

    ``backups`` is at least 1. Raises ValueError for what is not understood, and for a sentence
    that asks for nothing.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.lower().split(","))):
        match = _PART.fullmatch(part)
        name = _NAMES.get(match[2]) if match else None
        if match is None or name is None:
            raise ValueError(
                f"{part!r} is not understood; it must be parts such as 7 days, 2 backups, "
                "14 daily, 8 weekly, 12 monthly, 3 yearly, with commas between them"
            )
        if name in found:
            raise ValueError(f"{name} is said twice")
        if int(match[1]) > _MOST:
            raise ValueError(f"{part} is more than anybody lives to see")
        found[name] = int(match[1])
    if not any(found.values()):
        raise ValueError("it must say what is to be kept")
    return KeepPolicy(**{"days": 0, **found, "backups": max(1, found.get("backups", 1))})
