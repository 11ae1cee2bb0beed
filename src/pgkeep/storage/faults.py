"""What can go wrong with a call of a store, and plans of when it does; see ``faulty``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from random import Random
from typing import NamedTuple

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)


class Failure(Enum):
    """How a call fails."""

    # It may pass.
    UNAVAILABLE = "unavailable"  # nothing was sent
    LOST_ANSWER = "lost answer"  # done, and then a time-out: StoreUnavailable
    SLOW = "slow"  # works, after ``seconds``
    # It is an answer, and nothing was done.
    DENIED = "denied"
    FULL = "full"
    ABSENT = "absent"  # a false "not found"
    TAKEN = "taken"  # a false "there is one already", to a put
    CHANGED = "changed"  # a false "another one replaced it", to a replace
    BROKEN = "broken"  # a StoreError of no particular kind
    # It looks like a success.
    TRUNCATED = "truncated"  # a read returns the first half; a listing ends after half
    FLIPPED = "flipped"  # a read returns one wrong bit
    STALE = "stale"  # a listing lacks the object that was written last
    FORGOTTEN = "forgotten"  # a write or a delete does nothing
    HALF = "half"  # a write stores the first half


RAISED: dict[Failure, type[StoreError]] = {
    Failure.UNAVAILABLE: StoreUnavailable,
    Failure.LOST_ANSWER: StoreUnavailable,
    Failure.DENIED: StoreDenied,
    Failure.FULL: StoreFull,
    Failure.ABSENT: ObjectNotFound,
    Failure.TAKEN: ObjectExists,
    Failure.CHANGED: PreconditionFailed,
    Failure.BROKEN: StoreError,
}

PASSING = (Failure.UNAVAILABLE, Failure.LOST_ANSWER, Failure.SLOW)
"""What every command gets over by itself."""

_ANSWERS = (Failure.DENIED, Failure.BROKEN)
_READ = (*PASSING, *_ANSWERS, Failure.ABSENT)
POSSIBLE: dict[str, tuple[Failure, ...]] = {
    "put": (*PASSING, *_ANSWERS, Failure.FULL, Failure.TAKEN, Failure.FORGOTTEN, Failure.HALF),
    "replace": (
        *(*PASSING, *_ANSWERS, Failure.FULL, Failure.ABSENT, Failure.CHANGED),
        *(Failure.FORGOTTEN, Failure.HALF),
    ),
    "get": (*_READ, Failure.TRUNCATED, Failure.FLIPPED),
    "get_range": (*_READ, Failure.TRUNCATED, Failure.FLIPPED),
    "get_ranges": (*_READ, Failure.TRUNCATED, Failure.FLIPPED),
    "head": _READ,
    "list": (*PASSING, *_ANSWERS, Failure.TRUNCATED, Failure.STALE),
    "delete": (*PASSING, *_ANSWERS, Failure.FORGOTTEN),
}
"""Which failures a call of each method can have."""


class Fault(NamedTuple):
    """One entry of a plan: calls of ``method`` on keys like ``key`` (both may have ``*``).

    The first ``skip`` matching calls pass, the next ``times`` fail (None: all that follow). For
    a listing the key is the prefix; a delete is one call for each key.
    """

    failure: Failure
    method: str = "*"
    key: str = "*"
    skip: int = 0
    times: int | None = 1
    seconds: float = 0.0


def random_faults(
    seed: int, *, count: int, failures: Sequence[Failure], within: int, method: str = "*"
) -> list[Fault]:
    """A plan of ``count`` faults, each at a random one of the first ``within`` calls."""
    random = Random(seed)
    return [
        Fault(random.choice(failures), method=method, skip=random.randrange(within))
        for _ in range(count)
    ]
