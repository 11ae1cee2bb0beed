"""Packs that are there, and packs that somebody names; 300,000 of them in little memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import Store


class PackNames:
    """A set of packs; an attempt may be in it as a whole."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}
        self._packs: set[int] = set()
        self._whole: set[str] = set()

    def add(self, attempt: str, number: int) -> None:
        index = self._attempts.setdefault(attempt, len(self._attempts))
        self._packs.add(index << 32 | number)

    def add_attempt(self, attempt: str) -> None:
        """Every pack whose key bears this attempt's id."""
        self._whole.add(attempt)

    def has(self, attempt: str, number: int) -> bool:
        index = self._attempts.get(attempt)
        return attempt in self._whole or (
            index is not None and (index << 32 | number) in self._packs
        )


class StoredPacks:
    """What a listing of packs found: number and size by attempt."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._layout = layout
        self._numbers: dict[str, array[int]] = {}
        self._sizes: dict[str, array[int]] = {}
        for info in store.list(layout.packs):
            parsed = _parsed(info.key, layout)
            if parsed is not None:
                self._numbers.setdefault(parsed[0], array("L")).append(parsed[1])
                self._sizes.setdefault(parsed[0], array("Q")).append(info.size_bytes)

    def without(self, names: PackNames) -> Iterator[tuple[str, int]]:
        """Key and size of those that are not in ``names``."""
        for attempt, numbers in self._numbers.items():
            for number, size in zip(numbers, self._sizes[attempt], strict=True):
                if not names.has(attempt, number):
                    yield self._layout.pack(attempt, number), size

    def __contains__(self, key: object) -> bool:
        parsed = _parsed(str(key), self._layout)
        if parsed is None:
            return False
        numbers = self._numbers.get(parsed[0], array("L"))
        at = bisect_left(numbers, parsed[1])  # a listing ascends
        return at < len(numbers) and numbers[at] == parsed[1]


def _parsed(key: str, layout: Layout) -> tuple[str, int] | None:
    """Attempt and number of a pack's key; None for another object there."""
    if not key.startswith(layout.packs):
        return None
    attempt, slash, number = key[len(layout.packs) :].partition("/")
    if not slash or not (number.isascii() and number.isdecimal() and len(number) == 8):
        return None
    return attempt, int(number)
