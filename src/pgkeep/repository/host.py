"""What this host remembers of repositories: which one a URL is, and the host's own key.

The pin answers an attack and an accident at once: a repository that is suddenly another one
under the same URL (re-created, replaced, mounted elsewhere) is refused, because sealing to
whatever public key lies there would hand our data to whoever put it there.

Everything lies in the state directory, 0700, owned by the owner of the data directory, written
with fsync and rename. Losing it loses nothing but the pin and the host key.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pgkeep.errors import ConfigError, KeysChanged, LocalIOError

HOST_KEY_PREFIX = "PGKEEP-HOST-KEY-1"


class HostKey(NamedTuple):
    """A host's own age identity, bound to one repository by its fingerprint."""

    fingerprint: str
    identity: str

    @property
    def text(self) -> str:
        return f"{HOST_KEY_PREFIX}:{self.fingerprint}:{self.identity}"


def parse_host_key(text: str) -> HostKey:
    """Raises ``ConfigError`` (without repeating the text, which is a secret)."""
    parts = text.strip().split(":")
    if len(parts) != 3 or parts[0] != HOST_KEY_PREFIX or len(parts[1]) != 32:
        raise ConfigError(
            "The host key is malformed.",
            remedy=f"It is one line, {HOST_KEY_PREFIX}:<fingerprint>:AGE-SECRET-KEY-1…, "
            "as pgkeep init wrote it.",
        )
    return HostKey(parts[1], parts[2])


class HostState:
    """The state directory, as far as repositories are concerned.

    ``given_key`` is a host key from the configuration; it takes the place of the stored one, and
    its fingerprint is a pin.
    """

    def __init__(self, directory: Path, *, given_key: HostKey | None = None) -> None:
        self.directory = directory
        self._given = given_key

    def check_pin(self, url: str, repository_id: str, fingerprint: str) -> None:
        """Raise ``KeysChanged`` unless this is the repository that was here before; pin a new
        one."""
        if self._given is not None and self._given.fingerprint != fingerprint:
            raise _changed(url, self._given.fingerprint, fingerprint, "the host key")
        pinned = self._read(self._url_file(url))
        if pinned is None:
            self.pin(url, repository_id, fingerprint)
        elif (pinned.get("id"), pinned.get("fingerprint")) != (repository_id, fingerprint):
            place = str(self._url_file(url))
            raise _changed(url, str(pinned.get("fingerprint")), fingerprint, place)

    def pin(self, url: str, repository_id: str, fingerprint: str) -> None:
        """Remember that ``url`` is this repository (durable on return)."""
        facts = {"url": url, "id": repository_id, "fingerprint": fingerprint}
        self._write(self._url_file(url), json.dumps(facts, indent=1) + "\n")

    def host_key(self, repository_id: str) -> HostKey | None:
        """The key that this host holds for a repository, if any."""
        if self._given is not None:
            return self._given
        path = self._key_file(repository_id)
        try:
            return parse_host_key(path.read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _local(path, error) from error

    def save_host_key(self, repository_id: str, key: HostKey) -> Path:
        """Write the host key (0600, durable on return); returns where."""
        path = self._key_file(repository_id)
        self._write(path, key.text + "\n")
        return path

    def folder(self, *parts: str) -> Path:
        """A folder of the state directory, made if need be (0700)."""
        path = self.directory.joinpath(*parts)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _local(path, error) from error
        return path

    def _url_file(self, url: str) -> Path:
        name = hashlib.sha256(url.encode()).hexdigest()[:24]
        return self.directory / "repositories" / f"{name}.json"

    def _key_file(self, repository_id: str) -> Path:
        return self.directory / "keys" / f"{repository_id}.host-key"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _local(path, error) from error

    def _write(self, path: Path, text: str) -> None:
        self.folder(*path.parent.relative_to(self.directory).parts)
        write_durably(path, text.encode())


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a small local file so that a crash leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise _local(path, error) from error


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _local(path: Path, error: Exception) -> LocalIOError:
    return LocalIOError(
        f"{path} cannot be used.",
        why=f"{error}.",
        remedy="Check the owner and mode of the state directory, or set PGKEEP_STATE.",
    )


def _changed(url: str, expected: str, found: str, where: str) -> KeysChanged:
    return KeysChanged(
        f"The repository at {url} is not the one that this host knows.",
        why=f"Its fingerprint is {found}, and {where} says {expected}.",
        remedy="If the repository was replaced on purpose, check the new fingerprint with whoever "
        "did it and run pgkeep init --accept-fingerprint " + found + ". "
        "If not, somebody may have put another repository in its place: write nothing to it.",
        expected=expected,
        found=found,
    )
