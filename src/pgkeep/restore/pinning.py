"""The pin that keeps a sweep from deleting packs while a restore reads them.

A repository in a directory may belong to another user than root; what root would leave there, its
owner could not work with. So there the pin is written as that user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgkeep.errors import PgkeepError, StoreDenied, StoreError, StoreFull
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.pin_life import renewing
from pgkeep.repository.record import build_record
from pgkeep.storage.fallback import stores_of
from pgkeep.storage.interface import Store
from pgkeep.storage.open import local_path
from pgkeep.units import to_utc_text


@contextmanager
def pinned(
    repository: Repository,
    layout: Layout,
    backup: str,
    *,
    by: Mapping[str, Any],
    progress: Progress,
) -> Iterator[None]:
    """Hold a pin on the packs of ``backup``; where the store denies it, say so and read on."""
    attempt = os.urandom(16).hex()
    keys = [layout.pin(attempt, 1)]
    members = {"attempt": attempt, "purpose": "restore", "backup": backup}
    made: list[Store] = []
    several = stores_of(repository.store)

    def record() -> bytes:
        return build_record("pin", members, at=to_utc_text(datetime.now(UTC)), by=dict(by))

    def renew() -> None:
        keys.append(layout.pin(attempt, len(keys) + 1))
        for store in made:
            if not _touch(store, keys[0]):
                store.put(keys[-1], record())

    for store in several:
        try:
            with _as_owner_of(store):
                store.put(keys[0], record(), if_absent=True)
            made.append(store)
        except (StoreDenied, StoreFull) as error:
            progress.warn(
                f"The backup is read without a pin, since the store took none ({error.what}) Do "
                "not let an expiry or sweep run until the restore has ended."
            )
        except StoreError as error:
            # Of several repositories, others have what is read.
            if len(several) == 1:
                raise
            progress.note(f"no pin in {store.url}: {error.what}")
    try:
        with renewing(renew):
            yield
    finally:
        for store in made:
            _remove(store, keys)


def _touch(store: Store, key: str) -> bool:
    """Renew the pin of a repository in another user's directory, by its time: while other threads
    touch files, root cannot act as that user. False where there is no need."""
    if _other_owner(store) is None:
        return False
    try:
        os.utime(Path(local_path(store.url)) / key)
    except OSError as error:
        raise StoreError(f"The pin {key} could not be renewed: {error}") from error
    return True


def _remove(store: Store, keys: Sequence[str]) -> None:
    """At once if it can be; a pin that stays is dead after 72 hours."""
    try:
        with _as_owner_of(store):
            store.delete(keys)
    except PgkeepError:
        return


@contextmanager
def _as_owner_of(store: Store) -> Iterator[None]:
    """Root acts as the owner of a local repository, while no other thread touches files."""
    owner = _other_owner(store)
    if owner is None:
        yield
        return
    group = os.getegid()
    os.setegid(owner[1])
    os.seteuid(owner[0])
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def _other_owner(store: Store) -> tuple[int, int] | None:
    """Whose a local repository is, for root, if it is not root's own."""
    if os.geteuid() != 0:
        return None
    try:
        found = Path(local_path(store.url)).stat()
    except (PgkeepError, OSError):
        return None
    return (found.st_uid, found.st_gid) if found.st_uid else None
