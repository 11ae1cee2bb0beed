"""Moments, ages and pairs of title and text, as people read them. Time is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgkeep.units import format_duration


def moment(value: datetime, now: datetime) -> str:
    """In the user's zone with the zone named: ``Fri 13 Nov 03:00:41 CET``; the year if another."""
    local = value.astimezone()
    year = "" if local.year == now.astimezone().year else f" {local.year}"
    return f"{local:%a} {local.day} {local:%b}{year} {local:%H:%M:%S} {local.tzname()}"


def short_moment(value: datetime, now: datetime) -> str:
    """For a column: ``today 03:02``, ``Thu 03:02``, ``13 Nov 03:14``, ``13 Nov 2025``."""
    local, today = value.astimezone(), now.astimezone()
    days = (today.date() - local.date()).days
    if days == 0:
        return f"today {local:%H:%M}"
    if 0 < days < 7:
        return f"{local:%a %H:%M}"
    if local.year == today.year:
        return f"{local.day} {local:%b %H:%M}"
    return f"{local.day} {local:%b %Y}"


def ago(value: datetime, now: datetime) -> str:
    """``3 s ago``; ``just now`` for what is less than a second old, or ahead of our clock."""
    seconds = (now - value).total_seconds()
    if seconds < 1:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    return f"{format_duration(seconds)} ago"


def pairs(rows: Sequence[tuple[str, str]], indent: int = 2) -> list[str]:
    """Lines of title and text, the texts aligned; rows without a text are left out."""
    rows = [row for row in rows if row[1]]
    width = max((len(title) for title, _ in rows), default=0)
    return [f"{'':{indent}}{title:<{width}}  {text}" for title, text in rows]
