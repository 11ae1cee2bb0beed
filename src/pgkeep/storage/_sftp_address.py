"""Where a repository on an SFTP server is: ``sftp://user@host[:port]/absolute/path``."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit

from pgkeep.errors import ConfigError

DEFAULT_PORT = 22
_EXAMPLE = "sftp://pgkeep@backup.example.com/srv/backups"
# What a path may show unescaped, as in the URLs of local directories.
_PLAIN = "/-._~+=@,:"


class Address(NamedTuple):
    """A server, who we are there, and the absolute path of the repository's directory."""

    user: str
    host: str
    port: int
    path: bytes

    @property
    def url(self) -> str:
        """The URL by which messages name the store."""
        return f"sftp://{quote(self.user)}@{self._place}{quote(self.path, safe=_PLAIN)}"

    @property
    def server(self) -> str:
        """The server alone, as messages name it: host, and port where it is not the usual."""
        return self._place

    @property
    def known_as(self) -> str:
        """The server as a line of a known_hosts file names it."""
        return self.host if self.port == DEFAULT_PORT else f"[{self.host}]:{self.port}"

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORT else f"{host}:{self.port}"


def parse_address(url: str) -> Address:
    """The parts of ``url``. Raises ``ConfigError``, which never shows a password."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        # Not shown: what cannot be read may hold a password as well.
        raise _malformed("sftp://…", f"It cannot be read: {error}.") from None
    if parts.password is not None:
        # Not even shown: what stands in a URL is logged, and seen in lists of processes.
        raise ConfigError(
            f"The repository URL for {parts.hostname} holds a password.",
            why="URLs are shown in messages, logs and lists of processes.",
            remedy="Take it out and use a key, or put it into a file and name that with "
            "PGKEEP_SFTP_PASSWORD_FILE.",
        )
    if parts.scheme.lower() != "sftp" or not parts.hostname:
        raise _malformed(url, "It names no server.")
    if not parts.username:
        raise _malformed(
            url, "It names no user, and root and the server's user must mean the same."
        )
    if "?" in url or "#" in url:
        raise _malformed(url, "A '?' or a '#' has a meaning of its own: write %3F or %23.")
    return Address(
        user=unquote(parts.username),
        # As known_hosts files have it.
        host=parts.hostname.lower(),
        port=_port_of(parts, url),
        path=_path_of(parts, url),
    )


def _port_of(parts: SplitResult, url: str) -> int:
    try:
        port = parts.port
    except ValueError:
        raise _malformed(url, "Its port is not a number from 1 to 65535.") from None
    if port == 0:
        raise _malformed(url, "Its port is not a number from 1 to 65535.")
    return port or DEFAULT_PORT


def _path_of(parts: SplitResult, url: str) -> bytes:
    path = unquote_to_bytes(parts.path)
    names = path.split(b"/")
    if b".." in names or b"\0" in path:
        raise _malformed(url, "A path has no '..' and no NUL byte, so that it means one place.")
    if names[1:2] == [b"~"]:
        raise _malformed(url, "The path is absolute, and not below the user's home directory.")
    named = [name for name in names if name not in (b"", b".")]
    if not named:
        raise _malformed(url, "It names no directory on the server.")
    return b"/" + b"/".join(named)


def _malformed(url: str, why: str) -> ConfigError:
    return ConfigError(
        f"{url!r} cannot be used as a repository URL.",
        why=why,
        remedy=f"Write for example {_EXAMPLE}.",
    )
