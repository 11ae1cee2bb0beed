"""Several ranges of one object with as few reads as is sensible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pgkeep.errors import StoreError
from pgkeep.storage.interface import Buffer

# Reading a gap costs less than another request to a network file system; a bound on what is
# read at once keeps the memory of a restore bounded.
_GAP_BYTES = 32 * 1024
_MERGED_BYTES = 8 * 1024 * 1024


class MergedRange(NamedTuple):
    """One read, and which of the wanted ranges it serves, by their place in the request."""

    start: int
    length: int
    wanted: tuple[tuple[int, int, int], ...]


def merge_ranges(
    ranges: Sequence[tuple[int, int]],
    *,
    gap_bytes: int = _GAP_BYTES,
    merged_bytes: int | None = _MERGED_BYTES,
) -> list[MergedRange]:
    """The reads that serve all ``(start, length)``. Raises ``StoreError`` if one is negative.

    What is at most ``gap_bytes`` apart is one read, up to ``merged_bytes`` (None: no bound, and
    no two reads touch).
    """
    merged: list[MergedRange] = []
    for start, length, place in sorted((s, n, i) for i, (s, n) in enumerate(ranges)):
        check_range(start, length)
        one = (place, start, length)
        last = merged[-1] if merged else None
        if last is not None and start <= last.start + last.length + gap_bytes:
            total = max(last.length, start + length - last.start)
            if merged_bytes is None or total <= merged_bytes:
                merged[-1] = MergedRange(last.start, total, (*last.wanted, one))
                continue
        merged.append(MergedRange(start, length, (one,)))
    return merged


def check_range(start: int, length: int) -> None:
    """Raise ``StoreError`` if one is negative."""
    if start < 0 or length < 0:
        raise StoreError(f"A range of {length} bytes from {start} is not possible.")


def read_merged(merged: list[MergedRange], read: Callable[[int, int], Buffer]) -> list[Buffer]:
    """Do the reads and show in them what was wanted, in the order of the request; nothing is
    copied."""
    results: list[Buffer] = [b""] * sum(len(group.wanted) for group in merged)
    for group in merged:
        data = memoryview(read(group.start, group.length))
        for place, start, length in group.wanted:
            offset = start - group.start
            results[place] = data[offset : offset + length]
    return results
