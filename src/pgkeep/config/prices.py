"""What a store asks for, as a sentence: ``0.023 storage, 0.005 writes, 0.09 out, USD``.

Prices are the user's. A list of providers' prices would be wrong within a year.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile(r"(\d+(?:\.\d+)?)\s+([a-z]+)")
_CURRENCY = re.compile(r"[A-Za-z]{3}|[^\w\s]")


class Prices(NamedTuple):
    """``storage`` is for a GiB kept a month, ``writes`` and ``reads`` for a thousand requests,
    ``out`` for a GiB read from outside. What is not said costs nothing."""

    storage: float = 0.0
    writes: float = 0.0
    reads: float = 0.0
    out: float = 0.0
    currency: str = ""

    def __str__(self) -> str:
        parts = [f"{getattr(self, name):g} {name}" for name in _NAMES if getattr(self, name)]
        return ", ".join([*parts, *([self.currency] if self.currency else [])])


_NAMES = Prices._fields[:4]


def parse_prices(text: str) -> Prices:
    """The prices that a sentence says. Raises ValueError for what is not understood."""
    found: dict[str, float] = {}
    currency = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _PART.fullmatch(part.lower())
        if match is not None and match[2] in _NAMES and match[2] not in found:
            found[match[2]] = float(match[1])
        elif _CURRENCY.fullmatch(part) and not currency:
            currency = part.upper()
        else:
            raise ValueError(
                f"{part!r} is not understood, or said twice; it must be parts such as "
                "0.023 storage, 0.005 writes, 0.0004 reads, 0.09 out, USD, with commas between "
                "them"
            )
    if not found:
        raise ValueError("it must say what something costs")
    return Prices(**found, currency=currency)
