"""Locking a dump where the bucket has Object Lock. Nothing of it is needed by a later one, so it is
locked once, for as many days as a backup is at least."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pgkeep.repository.dumps import CONTENTS
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import OWN, PROBES, Layout, systems

if TYPE_CHECKING:
    from pgkeep.storage.object_lock import ObjectLock


def lock_dump(
    repository: Repository, layout: Layout, dump: str, lock: ObjectLock, *, days: int
) -> int:
    """Lock all of the dump, and what opens the repository, for ``days`` from its end on, by the
    store's clock; returns how many objects were locked for longer.

    Raises what the store raises: then not all of it may be locked.
    """
    folder = layout.dump(dump)
    until = repository.store.head(folder + CONTENTS).modified + timedelta(days=days)
    extended = 0
    for prefix in (folder, OWN, systems(layout.cluster)):
        there = {info.key for info in repository.store.list(prefix)}
        there = {name for name in there if not name.startswith(PROBES)}
        extended += lock.extend(prefix, there, least=until, to=until)
    return extended
