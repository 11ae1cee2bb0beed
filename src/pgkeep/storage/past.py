"""A bucket as it was at a moment: for coming back after somebody has deleted or overwritten.

Where a bucket keeps versions, nothing that happened after the moment matters: what was deleted is
there, what was overwritten is as it was, and what was added is not there. Only reading is
possible, and every read names the version that it wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import obstore

from pgkeep.errors import ObjectNotFound, StoreDenied, StoreError, StoreUnavailable
from pgkeep.storage._aws import AwsRequests
from pgkeep.storage._object_reading import ERRORS, ObjectReader, is_legal
from pgkeep.storage._ranges import check_range, merge_ranges, read_merged
from pgkeep.storage.interface import Buffer, Capabilities, ObjectInfo, check_key
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from pgkeep.storage.versions import Version, as_of, check_keeps_versions, list_versions

_GAP_BYTES = 1 << 20


class PastStore(ObjectReader):
    """The objects below ``place`` as they were at ``moment``, by the store's clock.

    Raises ``ConfigError`` where the bucket keeps no versions, and what asking for that raises.
    """

    def __init__(self, place: ObjectPlace, options: StoreOptions, moment: datetime) -> None:
        super().__init__(place, options)
        self.moment = moment.astimezone(UTC)
        self._requests = AwsRequests(place, options, wanted_for="Reading as of a moment")
        check_keeps_versions(self._requests)
        self._known: dict[str, Version | None] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Nothing that has to do with writing."""
        return Capabilities(conditional_create=False, compare_and_swap=False, durable=False)

    def get(self, key: str) -> bytes:
        """See :meth:`Store.get`."""
        found = self._find(key)
        data = self._read(found, {})
        if len(data) != found.size_bytes:
            raise self._short(found, len(data))
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See :meth:`Store.get_range`."""
        check_range(start, length)
        found = self._find(key)
        end = min(start + length, found.size_bytes)
        if start >= end:
            return b""
        data = self._read(found, {"range": (start, end)})
        if len(data) != end - start:
            raise self._short(found, len(data))
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """See :meth:`Store.get_ranges`. Near ranges are one request."""
        merged = merge_ranges(ranges, gap_bytes=_GAP_BYTES, merged_bytes=None)
        return read_merged(merged, lambda start, length: self.get_range(key, start, length))

    def head(self, key: str) -> ObjectInfo:
        """See :meth:`Store.head`."""
        return _info(self._find(key))

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`."""
        for versions in list_versions(self._requests, prefix, start_after=start_after):
            key = versions[0].key
            if not is_legal(key):
                continue  # another program's
            found = self._known[key] = as_of(versions, self.moment)
            if found is not None:
                yield _info(found)

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """Raises ``StoreDenied``."""
        self._refuse(key)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        """Raises ``StoreDenied``."""
        self._refuse(key)

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """Denies each."""
        return {key: self._denied(key) for key in keys}

    def close(self) -> None:
        """Give the connections back."""
        super().close()
        self._requests.close()

    def _find(self, key: str) -> Version:
        check_key(key)
        if key not in self._known:
            # A key comes before all that it begins.
            versions = next(list_versions(self._requests, key), [])
            is_it = bool(versions) and versions[0].key == key
            self._known[key] = as_of(versions, self.moment) if is_it else None
        found = self._known[key]
        if found is None:
            raise ObjectNotFound(
                f"There was no object {key} in {self.url} at {self._moment_text}.", key=key
            )
        return found

    def _read(self, version: Version, options: Any) -> bytes:
        try:
            asked: Any = {**options, "version": version.id}
            return bytes(obstore.get(self._clients.reading(), version.key, options=asked).bytes())
        except ERRORS as error:
            raise self._problem(error, version.key, doing="read") from error

    @property
    def _moment_text(self) -> str:
        return f"{self.moment:%Y-%m-%d %H:%M:%S} UTC"

    def _short(self, version: Version, got: int) -> StoreUnavailable:
        return StoreUnavailable(
            f"Cannot read {self.url}/{version.key}.",
            why=f"The store sent {got} bytes, and not what was asked for.",
            remedy="It may pass: try again.",
            key=version.key,
        )

    def _refuse(self, key: str) -> NoReturn:
        raise self._denied(key)

    def _denied(self, key: str) -> StoreDenied:
        return StoreDenied(
            f"{self.url}/{key} is not written.",
            why=f"The repository is read as of {self._moment_text}.",
            remedy="Leave --as-of (PGKEEP_AS_OF) out to write.",
            key=key,
        )


def _info(version: Version) -> ObjectInfo:
    modified = version.modified.replace(microsecond=0)
    return ObjectInfo(version.key, version.size_bytes, modified, version.etag)
