"""The one small interface behind which every object store stands.

Every object is written whole and, but for the lease, never again. So the interface needs no
append, no rename and no streaming: a pack is about 32 MiB, and the largest other object (a
1 GiB WAL segment, a manifest) is handed over in pieces that are joined in the store.

A method that returns has done what it says *durably*: ``put`` returns only after the bytes
would survive the loss of power. What a store cannot promise is in its ``Capabilities``.

Keys are ``/``-separated, relative, ASCII; see :func:`check_key`.

The two records are named tuples and not dataclasses because this module is on the start path
of ``wal-push``, and importing ``dataclasses`` costs twice as much as ``typing`` does.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pgkeep.errors import ObjectNotFound, StoreError

Buffer = bytes | bytearray | memoryview

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*(/[A-Za-z0-9][A-Za-z0-9._+=-]*)*")


class Capabilities(NamedTuple):
    """What this store was found to do; recorded by ``init``, never assumed."""

    conditional_create: bool
    compare_and_swap: bool
    list_after_write: bool = True
    durable: bool = True


class ObjectInfo(NamedTuple):
    """What a listing or a head request tells. ``modified`` is the *store's* clock, in UTC."""

    key: str
    size_bytes: int
    modified: datetime
    etag: str


class Store(ABC):
    """A place for immutable objects. All methods may be called from many threads at once.

    Raises, wherever a request is made: ``StoreDenied``, ``StoreFull``, ``StoreUnavailable``
    (worth a retry), ``StoreError`` (any other); each names the store and the key.
    """

    url: str
    request_bytes: int = 4 << 20
    """How many bytes a request to read should carry, so that its latency does not count."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this store can promise; the first look may try it out with small writes."""

    @abstractmethod
    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """Store the object durably; returns its etag. With ``if_absent``, ``ObjectExists`` if
        there is one.

        ``ObjectExists`` may be the echo of our own earlier attempt (a time-out after the
        commit): whoever cares reads back and compares.
        """

    @abstractmethod
    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        """Compare-and-swap: write only if the object's etag is still ``etag``; returns the new.

        Write what nobody wrote before: some stores' etags are hashes of the content, and come back
        with it.

        Raises ``PreconditionFailed`` when it is another, ``ObjectNotFound`` when it is gone.
        """

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The whole object. Raises ``ObjectNotFound``."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``; fewer only where the object ends.

        Raises ``ObjectNotFound``.
        """

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """Several ``(start, length)`` at once; a store that can merge or overlap them does.

        What comes back may be views of what was read at once: keep none of them for long.
        """
        return [self.get_range(key, start, length) for start, length in ranges]

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Raises ``ObjectNotFound`` only when the store positively says so."""

    @abstractmethod
    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix``, in ascending byte order of keys.

        ``prefix`` is plain text, not a directory: ``a/b`` also finds ``a/bc``.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """Delete each key; a key that is absent counts as deleted. One result per key."""

    def exists(self, key: str) -> bool:
        """Whether the object is there; errors other than a positive no are raised."""
        try:
            self.head(key)
        except ObjectNotFound:
            return False
        return True

    def impatient(self) -> Store:
        """The same store, which tries no call again: for what can be left for later, by who has
        others to look after meanwhile. It is not closed by itself."""
        return self

    def stop_waiting(self) -> None:  # noqa: B027 - most stores never wait
        """The work has failed: a call that waits to be tried again raises, and none waits any
        more. For good, so whoever goes on to other work opens the store anew."""

    def close(self) -> None:  # noqa: B027 - most stores hold nothing
        """Release connections; the store is not used afterwards."""


def views_of(data: Buffer | Sequence[Buffer]) -> list[memoryview]:
    """The pieces of what is put, as flat byte views, none of them copied or joined."""
    pieces = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    return [memoryview(piece).cast("B") for piece in pieces if len(piece)]


def check_key(key: str) -> str:
    """Return the key, or raise ``StoreError``: no ``..``, no empty or hidden part."""
    if not _KEY.fullmatch(key) or len(key) > 900:
        raise StoreError(f"{key!r} is not a legal object key.")
    return key
