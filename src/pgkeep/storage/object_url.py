"""URLs of object stores: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.

A URL says where, and nothing else: how to get there (endpoint, region, account) and who we are
are settings, since a URL is printed in messages, stands in listings, and is the same for all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pgkeep.errors import ConfigError, StoreError
from pgkeep.storage.interface import check_key

SCHEMES = ("s3", "gs", "az")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
# A container of Azure is what others call a bucket.
_WORDS = {"s3": "bucket", "gs": "bucket", "az": "container"}


class ObjectPlace(NamedTuple):
    """Where a repository lies in an object store. ``prefix`` has no slash at either end."""

    scheme: str
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """The URL by which messages name the store."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def word(self) -> str:
        """What the provider calls a bucket."""
        return _WORDS[self.scheme]


def scheme_of(url: str) -> str | None:
    """The scheme of an object store's URL; None for any other text."""
    scheme, colon, _ = url.partition(":")
    scheme = scheme.lower()
    return scheme if colon and scheme in SCHEMES else None


def parse_object_url(url: str) -> ObjectPlace:
    """What the URL of an object store names. Raises ``ConfigError``."""
    scheme = scheme_of(url)
    if scheme is None:
        raise ConfigError(
            f"{url!r} is not the URL of an object store.", remedy=f"Write {_example('s3')}."
        )
    example, word = _example(scheme), _WORDS[scheme]
    rest = url[len(scheme) + 1 :]
    if "@" in rest:
        # Not repeated: what stands there may be a secret.
        raise ConfigError(
            f"The {scheme}:// URL of the repository has an '@', as if it held a name or a key.",
            why="A URL is printed in messages and listings.",
            remedy=f"Write {example}, and give keys by their settings.",
        )
    if "?" in rest or "#" in rest:
        raise ConfigError(
            f"{url!r} has a '?' or a '#', and says more than where.",
            remedy=f"Write {example}, and give endpoint and region by PGKEEP_ENDPOINT and "
            "PGKEEP_REGION.",
        )
    if not rest.startswith("//") or rest[2:3] in ("", "/"):
        raise ConfigError(f"{url!r} names no {word}.", remedy=f"Write {example}.")
    bucket, _, prefix = rest[2:].partition("/")
    if ":" in bucket:
        raise ConfigError(
            f"{url!r} names a host and a port where the {word} belongs.",
            remedy=f"Write {example}, and PGKEEP_ENDPOINT=https://{bucket}.",
        )
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"{bucket!r} is not the name of a {word}.",
            why="A name has letters, digits, '-', '.' and '_', and begins with a letter or digit.",
            remedy=f"Write {example}.",
        )
    return ObjectPlace(scheme, bucket, _checked_prefix(url, prefix.strip("/"), example))


def _checked_prefix(url: str, prefix: str, example: str) -> str:
    if not prefix:
        return ""
    try:
        return check_key(prefix)
    except StoreError:
        raise ConfigError(
            f"{url!r} has a prefix that cannot be used: {prefix!r}.",
            why="Its parts have letters, digits and '._+=-', begin with a letter or digit, and "
            "none is empty.",
            remedy=f"Write for example {example}.",
        ) from None


def _example(scheme: str) -> str:
    return f"{scheme}://{'container' if scheme == 'az' else 'bucket'}/pgkeep"
