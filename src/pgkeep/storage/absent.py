"""A store that could not be opened, among others that could: each call says why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from pgkeep.errors import StoreError
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, Store


class AbsentStore(Store):
    """Raises ``error`` whatever is asked."""

    def __init__(self, url: str, error: StoreError) -> None:
        self.url, self._error = url, error

    @property
    def capabilities(self) -> Capabilities:
        self._fail()

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        self._fail()

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        self._fail()

    def get(self, key: str) -> bytes:
        self._fail()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._fail()

    def head(self, key: str) -> ObjectInfo:
        self._fail()

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._fail()

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        return dict.fromkeys(keys, self._error)

    def _fail(self) -> NoReturn:
        raise self._error
