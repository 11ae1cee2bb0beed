"""From the text that a user gives as the repository's URL to a store.

The few rules of percent-encoding are written out here because ``urllib.parse`` costs more time
to import than the rest of this package together, and this is on the start path of ``wal-push``.
"""

from __future__ import annotations

import re

from pgkeep.errors import ConfigError
from pgkeep.storage.interface import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgkeep.storage.options import StoreOptions

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_ESCAPE = re.compile(rb"%(.{0,2})", re.DOTALL)
_OBJECTS = ("s3", "gs", "az")
_REMOTE = (*_OBJECTS, "sftp")
_EXAMPLE = "file:///var/backups/pgkeep"


def open_store(url: str, options: StoreOptions | None = None, *, create: bool = False) -> Store:
    """The store at ``url``: ``s3://``, ``gs://``, ``az://``, ``sftp://``, ``file://`` or a plain
    absolute path.

    ``options`` are for stores behind a network; of an object store nothing is asked yet. With
    ``create`` a directory is made if it is missing, and may be empty. Raises ``ConfigError`` for a
    URL or settings that cannot be used, and what :class:`LocalStore` raises.
    """
    if options is not None and options.as_of is not None:
        from datetime import datetime

        from pgkeep.storage.object_url import parse_object_url
        from pgkeep.storage.past import PastStore

        moment = datetime.fromisoformat(options.as_of)
        return PastStore(parse_object_url(url), options, moment)
    if is_object_url(url):
        from pgkeep.storage.object_store import ObjectStore
        from pgkeep.storage.object_url import parse_object_url

        return ObjectStore(parse_object_url(url), options)
    if _scheme_of(url) == "sftp":
        from pgkeep.storage.sftp import open_sftp

        return open_sftp(
            url,
            key_file=options.sftp_key_file if options else None,
            known_hosts=options.sftp_known_hosts if options else None,
            password=options.sftp_password if options else None,
            create=create,
        )
    from pgkeep.storage.local import LocalStore

    return LocalStore(local_path(url), create=create)


def is_object_url(url: str) -> bool:
    """Whether the URL is an object store's; a wrong one of them is one, too."""
    return _scheme_of(url) in _OBJECTS


def _scheme_of(url: str) -> str:
    return url.partition(":")[0].lower()


def local_path(url: str) -> str:
    """The absolute path that ``url`` names. Raises ``ConfigError``; touches no file."""
    if url.startswith("/"):
        return _checked(url, url)
    match = _SCHEME.match(url)
    if match is None:
        raise ConfigError(
            f"{url!r} is not a repository URL.",
            why="It is neither a URL nor an absolute path.",
            remedy=f"Write for example {_EXAMPLE}, or the absolute path of a directory.",
        )
    scheme = match.group(1).lower()
    if scheme != "file":
        raise _unusable(url, scheme)
    return _checked(_file_path(url, url[match.end() :]), url)


def file_url(path: str) -> str:
    """The inverse of :func:`local_path`: the URL by which messages name the directory."""
    safe = b"/-._~+=@,:ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    raw = path.encode("utf-8", "surrogateescape")
    return "file://" + "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in raw)


def _file_path(url: str, rest: str) -> str:
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(
                f"{url!r} names the host {host!r}, and a file:// repository is on this one.",
                remedy=f"Write three slashes before an absolute path: file:///{host}/{path}"
                if slash
                else f"Write three slashes before an absolute path: {_EXAMPLE}",
            )
        rest = slash + path
    if "?" in rest or "#" in rest:
        raise ConfigError(
            f"{url!r} has a '?' or a '#', which have a meaning of their own in a URL.",
            remedy="Write %3F for '?' and %23 for '#', or give the plain absolute path.",
        )
    return _decode(rest, url)


def _decode(text: str, url: str) -> str:
    def byte(match: re.Match[bytes]) -> bytes:
        digits = match.group(1)
        if not re.fullmatch(rb"[0-9A-Fa-f]{2}", digits):
            raise ConfigError(
                f"{url!r} has a '%' that no two hexadecimal digits follow.",
                remedy="Write %25 for a percent sign, or give the plain absolute path.",
            )
        return bytes([int(digits, 16)])

    raw = text.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(byte, raw).decode("utf-8", "surrogateescape")


def _checked(path: str, url: str) -> str:
    parts = path.split("/")
    if not path.startswith("/") or "\0" in path or ".." in parts:
        raise ConfigError(
            f"{url!r} does not name an absolute path.",
            why="A repository's path starts with '/', has no '..' and no NUL byte, so that it "
            "means the same directory to every program that reads it.",
            remedy=f"Write for example {_EXAMPLE}.",
        )
    named = [part for part in parts if part not in ("", ".")]
    if not named:
        raise ConfigError(
            f"{url!r} names the root directory of this machine.",
            remedy=f"Name a directory of its own for the repository, for example {_EXAMPLE}.",
        )
    return "/" + "/".join(named)


def _unusable(url: str, scheme: str) -> ConfigError:
    if scheme in _REMOTE:
        return ConfigError(
            f"{url!r} is behind a network, and a directory is needed here.",
            remedy=f"Name one, for example {_EXAMPLE}.",
        )
    from difflib import get_close_matches

    near = get_close_matches(scheme, ("file", *_REMOTE), n=1)
    hint = f" The nearest known one is {near[0]}://." if near else ""
    return ConfigError(
        f"{url!r} has the unknown scheme {scheme}://.",
        why=f"Known are file, {', '.join(_REMOTE)}.{hint}",
        remedy=f"Write for example {_EXAMPLE}, or s3://bucket/pgkeep.",
    )
