"""What the store really does, tried out with one small object.

Documentation and version numbers do not tell whether a gateway in between honours a condition, or
whether the policy of these credentials forbids what it should. So one scratch object is created,
created again, seen in a listing, overwritten and deleted, and one that is not there is asked for.
Its time tells how far the store's clock is from ours. Readers ignore ``pgkeep/probe/``; where
deleting is forbidden the object stays, and does no harm.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
)
from pgkeep.storage.interface import Store

PREFIX = "pgkeep/probe/"
_CLOCK_SECONDS = 60
_FIRST, _SECOND = b"pgkeep probe 1\n", b"pgkeep probe 2\n"


@dataclass(frozen=True)
class StoreProbe:
    """What was found. ``can_overwrite`` and ``can_delete``: these credentials may destroy.

    ``missing_is_denied``: of an object that is not there the store says 403, not 404.
    ``clock_ahead_seconds``: by how much this machine's clock is ahead of the store's; whole
    seconds, and 0 for what may be the duration of a request.
    """

    conditional_create: bool
    compare_and_swap: bool
    list_after_write: bool
    durable: bool
    can_overwrite: bool
    can_delete: bool
    missing_is_denied: bool = False
    clock_ahead_seconds: int = 0

    @property
    def losses(self) -> tuple[str, ...]:
        """What is lost with this store, a sentence each."""
        found = []
        if not self.conditional_create:
            found.append(
                "The store cannot create an object only if it is absent. pgkeep looks first, but "
                "two servers that archive under one name by mistake can overwrite each other's "
                "WAL if they do so in the same moment, and synchronous archiving is not possible."
            )
        if not self.compare_and_swap:
            found.append(
                "The store cannot replace an object only if it is unchanged: two backups of one "
                "cluster may run at the same time, which costs time and is otherwise harmless."
            )
        if not self.list_after_write:
            found.append(
                "The store does not list what was just written: nothing may be deleted from it "
                "safely, so expire will refuse to."
            )
        if not self.durable:
            found.append(
                "The store cannot promise that what it confirmed survives a loss of power."
            )
        if self.missing_is_denied:
            found.append(
                'The store says "denied" of an object that is not there, as S3 does to those who '
                "may not list the bucket: a standby or a restore that fetches WAL cannot tell the "
                "end of the archive. Allow s3:ListBucket to whoever restores."
            )
        if abs(self.clock_ahead_seconds) > _CLOCK_SECONDS:
            side = "ahead of" if self.clock_ahead_seconds > 0 else "behind"
            found.append(
                f"This machine's clock is {abs(self.clock_ahead_seconds)} s {side} the store's: "
                "from 15 minutes on stores refuse every request. Let NTP set it."
            )
        return tuple(found)

    @property
    def can_destroy(self) -> bool:
        return self.can_overwrite or self.can_delete


def probe_store(store: Store) -> StoreProbe:
    """Try the store out. Raises ``StoreError`` when not even writing works."""
    capabilities = store.capabilities
    key = PREFIX + secrets.token_hex(16)
    missing_is_denied = _denies_missing(store)
    before = time.time()
    store.put(key, _FIRST, if_absent=capabilities.conditional_create)
    after = time.time()
    ahead = _clock_ahead(store, key, before, after)
    return StoreProbe(
        conditional_create=capabilities.conditional_create and _refuses_second(store, key),
        compare_and_swap=capabilities.compare_and_swap and _refuses_swap(store, key),
        list_after_write=any(info.key == key for info in store.list(PREFIX)),
        durable=capabilities.durable,
        can_overwrite=_may_overwrite(store, key),
        can_delete=_may_delete(store, key),
        missing_is_denied=missing_is_denied,
        clock_ahead_seconds=ahead,
    )


def _denies_missing(store: Store) -> bool:
    try:
        store.head(PREFIX + secrets.token_hex(16))
    except StoreDenied:
        return True
    except ObjectNotFound:
        pass
    return False


def _clock_ahead(store: Store, key: str, before: float, after: float) -> int:
    """By how many seconds we are ahead; a store may tell whole seconds only."""
    try:
        theirs = store.head(key).modified.timestamp()
    except StoreDenied:
        return 0  # a writer who may not read
    if theirs + 1 < before:
        return int(before - theirs)
    return int(after - theirs) if theirs > after + 1 else 0


def _refuses_second(store: Store, key: str) -> bool:
    try:
        store.put(key, _SECOND, if_absent=True)
    except ObjectExists:
        return True
    return False


def _refuses_swap(store: Store, key: str) -> bool:
    try:
        store.replace(key, _SECOND, etag="an-etag-that-nothing-has")
    except PreconditionFailed:
        return True
    except StoreError:
        return False
    return False


def _may_overwrite(store: Store, key: str) -> bool:
    try:
        store.put(key, _SECOND)
    except StoreDenied:
        return False
    return store.get(key) == _SECOND


def _may_delete(store: Store, key: str) -> bool:
    problem = store.delete([key]).get(key)
    return problem is None and not store.exists(key)
