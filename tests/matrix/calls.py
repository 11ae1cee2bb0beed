"""The calls that a command makes of its store, and which faults are tried on which of them."""

from __future__ import annotations

import os
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from pgkeep.storage.faults import POSSIBLE, Failure, Fault

_T = TypeVar("_T")
FULL = "FULL_MATRIX"
SEED = "MATRIX_SEED"

# What differs from run to run: ids of attempts, and names of backups.
_CHANCE = re.compile(r"[0-9a-f]{32}|\d{8}T\d{6}Z")


class Call(NamedTuple):
    """The call number ``number`` (from 0) of a method on keys like ``key``."""

    method: str
    key: str
    number: int

    def fault(self, failure: Failure) -> Fault:
        """This one call fails, in this way."""
        seconds = 45.0 if failure is Failure.SLOW else 0.0
        return Fault(failure, self.method, self.key, skip=self.number, seconds=seconds)

    def __str__(self) -> str:
        return f"{self.method} {self.key} #{self.number}"


def calls_of(counted: Counter[tuple[str, str]]) -> list[Call]:
    """Every call that was counted."""
    totals: Counter[tuple[str, str]] = Counter()
    for (method, key), count in counted.items():
        totals[method, _CHANCE.sub("*", key)] += count
    return [
        Call(method, key, number)
        for (method, key), total in sorted(totals.items())
        for number in range(total)
    ]


def chosen(calls: Iterable[Call], failure: Failure, *, row: str, most: int) -> list[Call]:
    """The calls on which a failure is tried: all that can have it, or a sample of them."""
    able = [call for call in calls if failure in POSSIBLE[call.method]]
    return sampled(able, row=f"{row} {failure.name}", most=most)


def sampled(members: Sequence[_T], *, row: str, most: int) -> list[_T]:
    """``most`` of the members, or all with FULL_MATRIX=1. MATRIX_SEED draws another sample."""
    if os.environ.get(FULL) == "1" or len(members) <= most:
        return list(members)
    seed = os.environ.get(SEED, "20261120")
    chance = random.Random(zlib.crc32(f"{seed} {row}".encode()))
    return chance.sample(members, most)
