"""A store whose word is not taken: what it says it has stored is looked at before we say so.

A gateway that caches writes, a bucket behind a proxy, a mount that lies about errors: all of them
have confirmed what was never stored, or half of it. PostgreSQL recycles its WAL upon our word, so
each put is followed by one small request for the object's size, and a segment of WAL is confirmed
one round trip later. The packs of a backup are looked at all together, in one listing, before its
manifest is created (``backup/steps.py``): a request for each would double their number.

Bytes of the right number and the wrong value are not found here. They are found by whoever reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgkeep.errors import ObjectNotFound, StoreError
from pgkeep.storage.interface import Buffer, Store, views_of
from pgkeep.storage.wrapped import WrappedStore


class CheckedStore(WrappedStore):
    """``store``, with every put looked at, but for keys that hold ``unless``, which the caller
    looks at. Goes below a store that retries."""

    def __init__(self, store: Store, *, unless: str | None = None) -> None:
        super().__init__(store)
        self._unless = unless

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`. Raises ``StoreError`` when it was not stored after all."""
        etag = self.store.put(key, data, if_absent=if_absent)
        if self._unless is not None and self._unless in key:
            return etag
        size = sum(len(view) for view in views_of(data))
        try:
            found = self.store.head(key)
        except ObjectNotFound as error:
            raise not_kept(
                self.url, key, f"{self.url} says now that it has no such object"
            ) from error
        if found.size_bytes != size:
            if if_absent and found.etag == etag:
                # It is ours, and nobody was told of it; left there, it would be in the way of
                # the next attempt, which may create its object only where there is none.
                self.store.delete([key])
            raise not_kept(self.url, key, f"It has {found.size_bytes} bytes there, and not {size}")
        return etag


def not_kept(url: str, key: str, why: str) -> StoreError:
    """The error for a store that confirmed a put in vain."""
    return StoreError(
        f"{url} confirmed that it had stored {key}, and it has not.",
        why=f"{why}.",
        remedy="Do not rely on this store until it is mended: see what stands between it and "
        "this host (a gateway, a cache, a mount). If the object is there, delete it; then run "
        "the command again.",
        key=key,
    )
