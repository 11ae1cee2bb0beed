"""The backups that a new one is compared with, pinned before anything is taken from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.choosing import Wanted, choose_parents
from pgkeep.backup.parents import Parents
from pgkeep.backup.pins import Pin
from pgkeep.errors import BackupError
from pgkeep.repository.condemned import condemned_keys

_CHOICES = 4


@contextmanager
def pinned_parents(attempt: Attempt, pin: Pin) -> Iterator[Parents]:
    """What to compare with; from here on it is pinned, and its key is the attempt's."""
    attempt.progress.phase("looking for the last backup")
    condemned: frozenset[str] = frozenset()
    for _ in range(_CHOICES):
        parents, attempt.hash_key = choose_parents(
            attempt.repository,
            attempt.layout,
            _wanted(attempt, pin, condemned),
            progress=attempt.progress,
        )
        with parents:
            # Only what is condemned after the pin names the parent is spared for the pin's sake.
            pin.work_from(parents.base)
            condemned = frozenset(condemned_keys(attempt.repository.store, attempt.layout))
            if parents.pack_keys(attempt.layout).isdisjoint(condemned):
                attempt.parent = parents.base
                yield parents
                return
    raise BackupError(
        "No backup that this one could be compared with stays long enough.",
        why="While one was chosen, a sweep condemned packs of it, several times in a row.",
        remedy="Run the backup again when the sweep is done.",
    )


def _wanted(attempt: Attempt, pin: Pin, condemned: frozenset[str]) -> Wanted:
    return Wanted(
        attempt.facts.block_size,
        pin.seen_at,
        condemned,
        attempt.options.full,
        attempt.options.read_all_every,
        attempt.cache,
    )
