"""Object Lock: versions that nobody can delete before a day, in buckets at s3:// that have it.

What a new object gets, the bucket's own default says. Here locks are only made longer, which is
always allowed, and of every version of a key: if there are several, somebody has written over an
object that is written once, and it is not for us to say which of them is the true one.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pgkeep.errors import ConfigError, ObjectNotFound, StoreError
from pgkeep.storage._aws import AwsRequests
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from pgkeep.storage.versions import Version, list_versions

_AT_ONCE = 16
_USUAL_MODE = "GOVERNANCE"


class ObjectLock:
    """The locks of one bucket. Raises ``ConfigError`` where AWS's library is not installed."""

    def __init__(self, place: ObjectPlace, options: StoreOptions) -> None:
        self._place = place
        self._requests = AwsRequests(place, options, wanted_for="Object Lock")

    def check(self) -> None:
        """Raise ``ConfigError`` unless the bucket has Object Lock, and what asking raises."""
        found: Any = {}
        try:
            found = self._requests.ask(
                "get_object_lock_configuration", doing="look at the Object Lock of"
            )
        except StoreError as error:
            # That is what S3 says of a bucket without it.
            if "ObjectLockConfigurationNotFound" not in str(error):
                raise
        if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise ConfigError(
                f"{self._place.url} has no Object Lock, and object_lock_days asks for it.",
                remedy="Make the bucket with Object Lock (it can hardly be added later), or leave "
                "object_lock_days out. See docs/guide/protect.",
            )

    def extend(self, prefix: str, keys: Collection[str], *, least: datetime, to: datetime) -> int:
        """See that each version of these keys below ``prefix`` is locked at least until ``least``;
        one that is not is locked until ``to``. Returns how many were.

        Raises ``ObjectNotFound`` for a key of which there is no version, and ``StoreError``s.
        """
        versions: list[Version] = []
        missing = set(keys)
        for of_key in list_versions(self._requests, prefix):
            if of_key[0].key in keys:
                found = [one for one in of_key if not one.is_mark]
                versions += found
                if found:
                    missing.discard(of_key[0].key)
        if missing:
            raise ObjectNotFound(
                f"{min(missing)} is not in {self._place.url}, and cannot be locked.",
                remedy="Run pgkeep verify.",
                key=min(missing),
            )

        def extend(version: Version) -> bool:
            mode, until = self._retention(version)
            if until is not None and until >= least:
                return False
            self._requests.ask(
                "put_object_retention",
                key=version.key,
                doing="lock",
                Key=self._requests.full_key(version.key),
                VersionId=version.id,
                Retention={"Mode": mode or _USUAL_MODE, "RetainUntilDate": to},
            )
            return True

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="lock") as pool:
            return sum(pool.map(extend, versions))

    def locked_until(self, key: str) -> datetime | None:
        """Until when the object's oldest version is locked; None if it is not.

        Raises ``StoreError``s.
        """
        for versions in list_versions(self._requests, key):
            if versions[0].key == key:
                found = [one for one in versions if not one.is_mark]
                return self._retention(found[-1])[1] if found else None
        return None

    def close(self) -> None:
        """Let the connections go."""
        self._requests.close()

    def _retention(self, version: Version) -> tuple[str | None, datetime | None]:
        said = self._requests.ask(
            "head_object",
            key=version.key,
            doing="look at the lock of",
            Key=self._requests.full_key(version.key),
            VersionId=version.id,
        )
        until = said.get("ObjectLockRetainUntilDate")
        if until is not None and not isinstance(until, datetime):
            raise StoreError(f"The store says {until!r} where a moment should be.")
        return said.get("ObjectLockMode"), None if until is None else until.astimezone(UTC)
