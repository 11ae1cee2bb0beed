"""Sizes, rates, durations and moments as people say them.

Sizes are in binary units; moments are stored in UTC and shown in the user's zone with the
zone named. Nothing here reads a clock: time is passed in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*$", re.IGNORECASE)
_FACTORS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def format_size(size_bytes: float) -> str:
    """``1536`` -> ``1.5 KiB``; three significant digits at most."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            if unit == "B" or abs(value) >= 100:
                return f"{value:.0f} {unit}"
            return f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_rate(bytes_per_second: float) -> str:
    """``1048576`` -> ``1.0 MiB/s``."""
    return f"{format_size(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """``112`` -> ``1m 52s``; below a minute with one decimal, below a second in ms."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes}m"
    return f"{hours // 24}d {hours % 24}h"


def parse_size(text: str) -> int:
    """``64MB``, ``64 MiB``, ``1g`` or plain bytes; every unit is binary, as in PostgreSQL.

    Raises ValueError when the text is not a size.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"not a size: {text!r} (write for example 64MiB)")
    return int(float(match.group(1)) * _FACTORS[match.group(2).lower()])


def to_utc_text(moment: datetime) -> str:
    """An aware datetime as ``2026-11-20T18:56:22.123456Z``, the form that is stored."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_utc_text(text: str) -> datetime:
    """The inverse of :func:`to_utc_text`."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def show_moment(moment: datetime) -> str:
    """In the user's zone, zone named: ``2026-11-20 19:56:22 CET``."""
    local = moment.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
