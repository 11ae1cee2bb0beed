"""Deleting objects: many at once, and no failure unseen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from pgkeep.errors import StoreDenied, StoreError
from pgkeep.storage.interface import Store

_AT_ONCE = 1000


def delete_all(store: Store, keys: Iterable[str]) -> int:
    """Delete each; returns how many. Raises the first failure after all were tried: a
    ``StoreDenied`` says that this host may not."""
    count = 0
    problem: StoreError | None = None
    for some in _batches(keys):
        for error in store.delete(some).values():
            problem = problem or error
            count += error is None
        if isinstance(problem, StoreDenied):
            break  # it will be so of all others
    if problem is not None:
        raise problem
    return count


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    left = iter(keys)
    while some := list(islice(left, _AT_ONCE)):
        yield some
