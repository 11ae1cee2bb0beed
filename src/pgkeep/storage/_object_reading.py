"""The reading half of an object store: everything that needs no right to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError

from pgkeep.errors import ObjectNotFound, StoreError, StoreUnavailable
from pgkeep.storage._answers import Answer, answer_of
from pgkeep.storage._object_client import Clients
from pgkeep.storage._object_problems import missing_bucket, object_problem
from pgkeep.storage._ranges import check_range, merge_ranges, read_merged
from pgkeep.storage.interface import Buffer, ObjectInfo, Store, check_key
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions

if TYPE_CHECKING:
    from obstore import ObjectMeta

# What the library raises for a request; "not found" and a failed connection are OSErrors.
ERRORS = (BaseError, OSError, NotImplementedError)

# Bytes between two wanted ranges that are read rather than asked for apart: at 50 MB/s they take
# the 20 ms that another request takes.
_GAP_BYTES = 1 << 20
_PAGE = 1000


class ObjectReader(Store):
    """Objects below ``place``; :class:`ObjectStore` adds how they come there."""

    request_bytes = 24 << 20

    def __init__(self, place: ObjectPlace, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        self.place = place
        self.url = place.url
        self._clients = Clients(place, options)
        self._attributes = (
            {"Storage-Class": options.storage_class} if options.storage_class else None
        )

    def get(self, key: str) -> bytes:
        """See :meth:`Store.get`."""
        check_key(key)
        try:
            return bytes(obstore.get(self._clients.reading(), key).bytes())
        except ERRORS as error:
            raise self._problem(error, key, doing="read") from error

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See :meth:`Store.get_range`."""
        check_key(key)
        check_range(start, length)
        if length == 0:
            self.head(key)
            return b""
        try:
            result = obstore.get(
                self._clients.reading(), key, options={"range": (start, start + length)}
            )
            got, size_bytes = bytes(result.bytes()), result.meta["size"]
        except ERRORS as error:
            return self._nothing_there(error, key, start)
        if len(got) != min(length, size_bytes - start):
            raise StoreUnavailable(
                f"Cannot read {self.url}/{key}.",
                why=f"Of {length} bytes from {start} the store sent {len(got)}.",
                remedy="It may pass: try again.",
                key=key,
            )
        return got

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """See :meth:`Store.get_ranges`. Near ranges are one request, and all run at once.

        They are merged here and not by the library, which panics where an object that is shorter
        than it should be ends between two ranges that it has merged.
        """
        check_key(key)
        merged = merge_ranges(ranges, gap_bytes=_GAP_BYTES, merged_bytes=None)
        if not all(group.length for group in merged):
            return super().get_ranges(key, ranges)
        if not merged:
            return []
        try:
            found = obstore.get_ranges(
                self._clients.reading(),
                key,
                starts=[group.start for group in merged],
                lengths=[group.length for group in merged],
                coalesce=0,
            )
        except ERRORS as error:
            if answer_of(error).is_past_the_end:
                return super().get_ranges(key, ranges)
            raise self._problem(error, key, doing="read") from error
        if any(len(data) != group.length for data, group in zip(found, merged, strict=True)):
            # Rare: one by one, each of them says whether it ends where the object does.
            return super().get_ranges(key, ranges)
        at = {group.start: memoryview(data) for group, data in zip(merged, found, strict=True)}
        return read_merged(merged, lambda start, _: at[start])

    def head(self, key: str) -> ObjectInfo:
        """See :meth:`Store.head`."""
        check_key(key)
        return _info(self._look(key, doing="look at"))

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`. Raises ``StoreError`` if the store does not list in order."""
        folder = prefix.rpartition("/")[0]
        if folder and not is_legal(folder):
            return
        after = max(start_after or "", _just_before(prefix))
        last = ""
        for meta in self._pages(folder, after if is_legal(after) else None, prefix):
            key = meta["path"]
            if not is_legal(key):
                continue  # another program's
            if key <= last:
                raise self._out_of_order(last, key)
            last = key
            if not key.startswith(prefix):
                if key > prefix:
                    return
            elif start_after is None or key > start_after:
                yield _info(meta)

    def close(self) -> None:
        """Give the connections back."""
        self._clients.close()

    def _pages(self, folder: str, offset: str | None, prefix: str) -> Iterator[ObjectMeta]:
        try:
            stream = obstore.list(
                self._clients.reading(), folder or None, offset=offset, chunk_size=_PAGE
            )
            for page in stream:
                yield from page
        except ERRORS as error:
            if answer_of(error).is_absence:
                raise missing_bucket(self.place, key=prefix, doing="list") from error
            raise object_problem(error, self.place, prefix, doing="list") from error

    def _look(self, key: str, *, doing: str) -> ObjectMeta:
        try:
            return obstore.head(self._clients.reading(), key)
        except ERRORS as error:
            raise self._problem(error, key, doing=doing) from error

    def _problem(self, error: Exception, key: str, *, doing: str) -> StoreError:
        answer = answer_of(error)
        if answer.is_absence:
            return self._absent(answer, key, doing=doing)
        return object_problem(error, self.place, key, doing=doing)

    def _absent(self, answer: Answer, key: str, *, doing: str) -> StoreError:
        """A positive no, or what stands against saying it."""
        if not self._bucket_is_there(answer, key):
            return missing_bucket(self.place, key=key, doing=doing)
        return ObjectNotFound(f"There is no object {key} in {self.url}.", key=key)

    def _bucket_is_there(self, answer: Answer, key: str) -> bool:
        """Whether a 404 can only be about the key. Raises what asking raises."""
        if answer.speaks_of_key or answer.speaks_of_bucket:
            return answer.speaks_of_key
        try:
            next(iter(obstore.list(self._clients.reading(), key, chunk_size=1)), None)
        except ERRORS as error:
            if answer_of(error).is_absence:
                return False
            raise object_problem(error, self.place, key, doing="look for") from error
        return True

    def _nothing_there(self, error: Exception, key: str, start: int) -> bytes:
        """Nothing, if a range was refused because the object ends before it; else raises."""
        answer = answer_of(error)
        refused = answer.is_past_the_end or (answer.status is None and "range" in answer.text)
        if refused and start >= self.head(key).size_bytes:
            return b""
        raise self._problem(error, key, doing="read") from error

    def _out_of_order(self, last: str, key: str) -> StoreError:
        return StoreError(
            f"{self.url} cannot be listed safely.",
            why=f"The store lists {key} after {last}, out of the order of keys.",
            remedy="Use a store that lists in the byte order of keys, as S3 is documented to.",
        )


def quoted(etag: str) -> str:
    """An etag as HTTP writes it. Azure's listings leave the quotes out."""
    return etag if etag.startswith(('"', "W/")) else f'"{etag}"'


def _info(meta: ObjectMeta) -> ObjectInfo:
    # A listing tells fractions of a second that a head request does not; both shall say the same.
    modified = meta["last_modified"].astimezone(UTC).replace(microsecond=0)
    return ObjectInfo(meta["path"], meta["size"], modified, quoted(meta["e_tag"] or ""))


def is_legal(key: str) -> bool:
    """Whether it can be one of ours."""
    try:
        check_key(key)
    except StoreError:
        return False
    return True


def _just_before(prefix: str) -> str:
    """A legal key not far before all those that start with ``prefix``; empty if there is none.

    Saves listing what comes before them in their folder.
    """
    if not prefix or prefix.endswith("/"):
        return ""
    before = prefix[:-1] + chr(ord(prefix[-1]) - 1) + "z" * 8
    return before if is_legal(before) else ""
