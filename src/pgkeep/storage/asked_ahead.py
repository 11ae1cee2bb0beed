"""A store of which some answers are there already.

Code that reads one thing after the other stays as it is, with its errors: it is given this store,
which was asked beforehand, at the same time, for what that code is sure to ask for. What could not
be answered then is asked again by whoever wants it, and fails there.

An answer is as old as the question. So only that is asked ahead which is never rewritten, and of
which it is enough to know what there was when the command began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from pgkeep.errors import StoreError
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.together import each
from pgkeep.storage.wrapped import WrappedStore


class AskedAhead(WrappedStore):
    """``store``, but for what :meth:`ask` was told of. One thread asks; any may read then."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._objects: dict[str, bytes] = {}
        self._listings: dict[str, list[ObjectInfo]] = {}

    def ask(self, *, objects: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        """Get these objects and listings, all at once. Errors are left for who wants them, and a
        store that is away is not waited for."""
        store = self.store.impatient()
        calls = [
            *(partial(self._get, store, key) for key in objects),
            *(partial(self._list, store, prefix) for prefix in prefixes),
        ]
        each(lambda call: call(), calls)

    def knows(self, prefix: str) -> bool:
        """Whether the listing of a prefix is there."""
        return prefix in self._listings

    def get(self, key: str) -> bytes:
        known = self._objects.get(key)
        return self.store.get(key) if known is None else known

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        known = self._listings.get(prefix) if start_after is None else None
        return self.store.list(prefix, start_after=start_after) if known is None else iter(known)

    def impatient(self) -> Store:
        return self.store.impatient()

    def _get(self, store: Store, key: str) -> None:
        try:
            self._objects[key] = store.get(key)
        except StoreError:
            return

    def _list(self, store: Store, prefix: str) -> None:
        try:
            self._listings[prefix] = [*store.list(prefix)]
        except StoreError:
            return
