"""The versions of objects that a bucket keeps, and which of them was the object at a moment.

Where a bucket keeps versions, what overwrites an object is a version beside it, and a deletion is a
mark above it. So as of any moment an object is its newest version that is not later, if that is
no such mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pgkeep.errors import ConfigError, StoreDenied, StoreError
from pgkeep.storage._aws import AwsRequests

PAGE = 1000


class Version(NamedTuple):
    """One version of an object; ``is_mark`` if it says that the object was deleted.

    ``modified`` is the store's clock, of which some stores tell whole seconds only.
    """

    key: str
    id: str
    modified: datetime
    size_bytes: int
    etag: str
    is_mark: bool


def list_versions(
    requests: AwsRequests, prefix: str = "", *, start_after: str | None = None
) -> Iterator[list[Version]]:
    """For each key that starts with ``prefix``, in the order of keys, its versions, newest first.

    Keys are without the place's prefix. Raises ``StoreError``.
    """
    found: list[Version] = []
    for version in _in_order(requests, prefix, start_after):
        if start_after is not None and version.key <= start_after:
            continue  # not all stores begin after it
        if found and version.key != found[0].key:
            yield _newest_first(found)
            found = []
        found.append(version)
    if found:
        yield _newest_first(found)


def as_of(versions: list[Version], moment: datetime) -> Version | None:
    """The object as it was then; None if there was none. ``versions`` are newest first."""
    for version in versions:
        if version.modified <= moment:
            return None if version.is_mark else version
    return None


def check_keeps_versions(requests: AwsRequests) -> None:
    """Raise ``ConfigError`` if the bucket positively never kept versions.

    One that has stopped still has those of before. Who may not ask learns it by what is missing.
    """
    try:
        said = requests.ask("get_bucket_versioning", doing="look at the versioning of")
    except StoreDenied:
        return
    if not said.get("Status"):
        raise ConfigError(
            f"{requests.place.url} cannot be read as of a moment: the bucket keeps no versions.",
            why="What is deleted or overwritten there is gone at once.",
            remedy="Leave --as-of out; and for the next time, turn versioning on: see "
            "docs/guide/protect.",
        )


def _in_order(requests: AwsRequests, prefix: str, start_after: str | None) -> Iterator[Version]:
    asked: dict[str, Any] = {"Prefix": requests.full_key(prefix), "MaxKeys": PAGE}
    if start_after is not None:
        asked["KeyMarker"] = requests.full_key(start_after)
    last = ""
    while True:
        page = requests.ask(
            "list_object_versions", key=prefix, doing="list the versions in", **asked
        )
        for version in _of_page(requests, page):
            if version.key < last:
                raise StoreError(
                    f"{requests.place.url} cannot be listed safely.",
                    why=f"The store lists {version.key} after {last}, out of the order of keys.",
                    remedy="Use a store that lists in the byte order of keys.",
                )
            last = version.key
            yield version
        if not page.get("IsTruncated"):
            return
        asked["KeyMarker"] = page["NextKeyMarker"]
        asked["VersionIdMarker"] = page["NextVersionIdMarker"]


def _of_page(requests: AwsRequests, page: Any) -> list[Version]:
    """The library tells versions and marks apart, each in order: here they are together again."""
    found = [
        _version(requests, one, is_mark=is_mark)
        for name, is_mark in (("Versions", False), ("DeleteMarkers", True))
        for one in page.get(name, ())
    ]
    return sorted(found, key=lambda version: version.key)


def _newest_first(versions: list[Version]) -> list[Version]:
    # Of the same second, the object rather than the mark: what is shown too much does no harm.
    # The sort is stable, and stores list newest first.
    return sorted(
        versions, key=lambda version: (version.modified, not version.is_mark), reverse=True
    )


def _version(requests: AwsRequests, said: Any, *, is_mark: bool) -> Version:
    return Version(
        requests.own_key(said["Key"]),
        said["VersionId"],
        said["LastModified"].astimezone(UTC),
        0 if is_mark else said["Size"],
        "" if is_mark else said["ETag"],
        is_mark,
    )
