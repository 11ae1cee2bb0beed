"""Locking dumps in the repositories whose settings ask for it (``object_lock_days``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgkeep.config import Settings
from pgkeep.repository.layout import Layout

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.repository.identity import Repository


def lock_one(
    context: Context,
    name: str,
    settings: Settings,
    repository: Repository,
    layout: Layout,
    dump: str,
) -> None:
    """Lock a dump in the repository of this name, if that shall have locks and has the dump.

    Raises what the store raises.
    """
    from pgkeep.cli.object_locks import lock_of
    from pgkeep.dump.lock import lock_dump
    from pgkeep.repository.dumps import CONTENTS

    days = settings.object_lock_days
    if days is None or not repository.store.exists(layout.dump(dump) + CONTENTS):
        return
    lock = lock_of(settings)
    try:
        extended = lock_dump(repository, layout, dump, lock, days=days)
    finally:
        lock.close()
    context.log.info("locked", repository=name, extended=extended)


def lock_dumps_of(
    context: Context,
    name: str,
    settings: Settings,
    repository: Repository,
    layouts: Sequence[Layout],
) -> None:
    """Lock each dump that should be locked by now and is not: those that were just copied, and what
    an earlier run did not come to. Raises what the store raises, and says which is not locked."""
    from pgkeep.cli.object_locks import lock_of
    from pgkeep.dump.lock import unlocked_dumps
    from pgkeep.errors import PgkeepError

    days = settings.object_lock_days
    if days is None:
        return
    lock = lock_of(settings)
    try:
        for layout in layouts:
            for dump in unlocked_dumps(repository, layout, lock, days=days):
                try:
                    lock_one(context, name, settings, repository, layout, dump)
                except PgkeepError as error:
                    error.what = f"The dump {dump} is not locked in {name}. {error.what}"
                    raise
    finally:
        lock.close()
