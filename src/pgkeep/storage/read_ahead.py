"""A store that is asked beforehand for what its user will certainly ask for.

A process that PostgreSQL starts for each segment reads a handful of small records, one after the
other, and on a store that takes 20 ms to answer it waits longer for them than for its segment.
Which they are is known before it begins. So they are asked for at once, each in a thread of its
own, and handed out when they are wanted: each answer once, and no older than the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.wrapped import WrappedStore

_Result = TypeVar("_Result")


class ReadAheadStore(WrappedStore):
    """``store``, with the objects ``keys``, and the listings of ``newest`` and the last object of
    each, on their way from the start."""

    def __init__(self, store: Store, *, keys: Iterable[str], newest: Iterable[str]) -> None:
        super().__init__(store)
        self._gets: dict[str, _Later[bytes]] = {}
        self._lists: dict[str, _Later[Sequence[ObjectInfo]]] = {}
        for key in keys:
            self._gets[key] = _Later(lambda key=key: store.get(key))  # type: ignore[misc]
        for prefix in newest:
            self._lists[prefix] = _Later(
                lambda prefix=prefix: [*store.list(prefix)],  # type: ignore[misc]
                then=self._get_last,
            )

    def get(self, key: str) -> bytes:
        later = self._gets.pop(key, None)
        return self.store.get(key) if later is None else later.result()

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        later = self._lists.pop(prefix, None) if start_after is None else None
        if later is None:
            return self.store.list(prefix, start_after=start_after)
        return iter(later.result())

    def _get_last(self, listed: Sequence[ObjectInfo]) -> None:
        if listed:
            key = listed[-1].key
            self._gets[key] = _Later(lambda: self.store.get(key))


class _Later(Generic[_Result]):
    """An answer that is on its way. The thread keeps no process alive."""

    def __init__(
        self, ask: Callable[[], _Result], *, then: Callable[[_Result], None] | None = None
    ) -> None:
        self._ask, self._then = ask, then
        self._answer: list[_Result] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def result(self) -> _Result:
        """Wait for it. Raises what asking raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._answer[0]

    def _run(self) -> None:
        try:
            found = self._ask()
            if self._then is not None:
                self._then(found)
            self._answer.append(found)
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()
