"""Locking a dump where the bucket has Object Lock. Nothing of it is needed by a later one, so it is
locked once, for as many days as a backup is at least."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
    last = folder + CONTENTS
    until = repository.store.head(last).modified + timedelta(days=days)
    extended = 0
    for prefix in (folder, OWN, systems(layout.cluster)):
        there = {info.key for info in repository.store.list(prefix)}
        there = {name for name in there if not name.startswith(PROBES) and name != last}
        extended += lock.extend(prefix, there, least=until, to=until)
    # Last: where they are locked, all is.
    return extended + lock.extend(last, {last}, least=until, to=until)


def unlocked_dumps(
    repository: Repository, layout: Layout, lock: ObjectLock, *, days: int
) -> list[str]:
    """The dumps that should be locked by now and are not, or not for long enough.

    Raises what the store raises.
    """
    found = []
    for info in repository.store.list(layout.dumps):
        name, _, rest = info.key[len(layout.dumps) :].partition("/")
        until = info.modified + timedelta(days=days)
        if rest != CONTENTS or until <= datetime.now(UTC):
            continue
        locked = lock.locked_until(info.key)
        # Listings and locks may tell moments in whole seconds.
        if locked is None or locked < until - timedelta(minutes=1):
            found.append(name)
    return found
