"""S3, GCS and Azure as a store: one request for each call, and no answer taken for more than it is.

The requests are obstore's, a thin layer over Rust's object_store: it signs, keeps connections, and
leaves the interpreter free meanwhile. What is ours:

* "Not found" is said only when the store speaks of the key. A 404 can also mean that the bucket is
  gone, or is another one; where the answer does not tell (HEAD has no body), the bucket is asked.
* A put is always one request, never multipart, so that conditions hold and nothing is left behind.
  Pieces are handed over as they are; nobody joins them.
* Deletes are single requests in parallel, since a batch hides how each key fared.
* A prefix is plain text here and a path to the library: the folder is listed, and filtered.

An etag of S3 may be a hash of the content, so it comes back when equal content is written again.
Whoever swaps writes what nobody wrote before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import obstore

from pgkeep.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StoreError
from pgkeep.storage._answers import answer_of
from pgkeep.storage._object_problems import missing_bucket, object_problem
from pgkeep.storage._object_reading import ERRORS, ObjectReader, quoted
from pgkeep.storage.interface import Buffer, Capabilities, check_key, views_of

_DELETES_AT_ONCE = 16


class ObjectStore(ObjectReader):
    """Objects below a prefix of a bucket; :class:`ObjectReader` is the reading half."""

    _capabilities: Capabilities | None = None
    _looks_first = False  # the store has said that it does not know the condition

    @property
    def capabilities(self) -> Capabilities:
        """Found out at the first look, with one scratch object."""
        if self._capabilities is None:
            from pgkeep.storage._object_trial import try_out

            found = try_out(self)
            if self._looks_first:
                found = Capabilities(conditional_create=False, compare_and_swap=False)
            self._capabilities = found
        return self._capabilities

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`. Buffers are sent as they are, without joining them.

        Some stores (Backblaze's B2) refuse the condition with 501. There we look first, which two
        writers at once may not notice of each other; ``capabilities`` says so.
        """
        check_key(key)
        try:
            if if_absent and self._looks_first:
                return self._send_after_a_look(key, data)
            return self._send(key, data, "create" if if_absent else "overwrite")
        except ERRORS as error:
            answer = answer_of(error)
            if if_absent and answer.status == 501 and not self._looks_first:
                self._looks_first = True
                return self.put(key, data, if_absent=True)
            if if_absent and answer.says_exists:
                raise ObjectExists(
                    f"There is an object {key} in {self.url} already.", key=key
                ) from error
            if answer.is_absence and not self._bucket_is_there(answer, key):
                raise missing_bucket(self.place, key=key, doing="store") from error
            raise object_problem(error, self.place, key, doing="store") from error

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        """See :meth:`Store.replace`."""
        check_key(key)
        mode: dict[str, str] = {"e_tag": quoted(etag)}
        if self.place.scheme == "gs":
            # There the condition is a generation, which neither a put nor a listing tells.
            mode["version"] = self._generation(key, etag)
        try:
            return self._send(key, data, mode)
        except ERRORS as error:
            answer = answer_of(error)
            if answer.is_absence:
                raise self._absent(answer, key, doing="replace") from error
            if answer.status == 412 or answer.names_are_files:
                self.head(key)  # raises what is right if it is gone
                raise self._replaced(key) from error
            raise object_problem(error, self.place, key, doing="replace") from error

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """See :meth:`Store.delete`. One request a key, many at once."""
        results: dict[str, StoreError | None] = dict.fromkeys(keys)
        if len(results) < 2:
            outcomes = [self._delete(key) for key in results]
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(_DELETES_AT_ONCE, len(results))) as pool:
                outcomes = [*pool.map(self._delete, results)]
        return dict(zip(results, outcomes, strict=True))

    def _send(self, key: str, data: Buffer | Sequence[Buffer], mode: Any) -> str:
        views = views_of(data)
        size_bytes = sum(len(view) for view in views)
        result = obstore.put(
            self._clients.writing(size_bytes),
            key,
            views[0] if len(views) == 1 else views or b"",
            mode=mode,
            attributes=self._attributes,
            use_multipart=False,
        )
        etag = result["e_tag"]
        return quoted(etag) if etag else self.head(key).etag

    def _send_after_a_look(self, key: str, data: Buffer | Sequence[Buffer]) -> str:
        try:
            self.head(key)
        except ObjectNotFound:
            return self._send(key, data, "overwrite")
        raise ObjectExists(f"There is an object {key} in {self.url} already.", key=key)

    def _generation(self, key: str, etag: str) -> str:
        found = self._look(key, doing="replace")
        if quoted(found["e_tag"] or "") != quoted(etag) or found["version"] is None:
            raise self._replaced(key)
        return found["version"]

    def _delete(self, key: str) -> StoreError | None:
        try:
            check_key(key)
            obstore.delete(self._clients.reading(), key)
        except StoreError as error:
            return error
        except ERRORS as error:
            return self._not_deleted(error, key)
        return None

    def _not_deleted(self, error: Exception, key: str) -> StoreError | None:
        answer = answer_of(error)
        if not answer.is_absence:
            return object_problem(error, self.place, key, doing="delete")
        try:
            absent = self._absent(answer, key, doing="delete")
        except StoreError as other:
            return other
        return None if isinstance(absent, ObjectNotFound) else absent

    def _replaced(self, key: str) -> PreconditionFailed:
        return PreconditionFailed(
            f"The object {key} in {self.url} was not replaced.",
            why="Somebody else replaced it first.",
            key=key,
        )
