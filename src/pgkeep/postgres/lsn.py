"""Positions in the write-ahead log, and timelines.

Both are integers with a name, so that arithmetic is plain arithmetic while a signature still
says which of the two it wants. An LSN is a byte position in one endless log; PostgreSQL
prints it as two 32-bit halves in hexadecimal, ``16/B374D848`` (``pg_lsn`` in
``src/backend/utils/adt/pg_lsn.c``).
"""

from __future__ import annotations

_HEX = frozenset("0123456789abcdefABCDEF")
_MAX_LSN = (1 << 64) - 1


class Lsn(int):
    """A byte position in the write-ahead log; zero is PostgreSQL's "no position"."""

    __slots__ = ()

    def __new__(cls, value: int = 0) -> Lsn:
        if not 0 <= value <= _MAX_LSN:
            raise ValueError(f"not a position in the WAL: {int(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read ``16/B374D848``, with or without leading zeros in either half.

        Raises ValueError for anything that PostgreSQL's own ``pg_lsn`` refuses.
        """
        high, slash, low = text.partition("/")
        if not slash or not _is_half(high) or not _is_half(low):
            raise ValueError(f"not an LSN: {text!r} (write for example 16/B374D848)")
        return cls((int(high, 16) << 32) | int(low, 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"


class Timeline(int):
    """The number of a timeline, 1 to 2^32 - 1; file names carry it as eight hex digits."""

    __slots__ = ()

    def __new__(cls, value: int) -> Timeline:
        if not 1 <= value <= 0xFFFFFFFF:
            raise ValueError(f"not a timeline: {int(value)}")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"Timeline({int(self)})"


def _is_half(text: str) -> bool:
    return 1 <= len(text) <= 8 and _HEX.issuperset(text)
