"""What this host remembers of repositories: which one a URL is, and the host's own key.

The pin answers an attack and an accident at once: a repository that is suddenly another one
under the same URL (re-created, replaced, mounted elsewhere) is refused, because sealing to
whatever public key lies there would hand our data to whoever put it there.

Everything lies in two folders of the state directory, 0700, owned by the owner of the data
directory, written with fsync and rename. Losing them loses nothing but the pin and the host key.
The state directory itself may be a volume that anybody can write to, as containers get them; so
the folders are refused when they are a link, or belong to somebody else.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from pgkeep.errors import ConfigError, KeysChanged, LocalIOError

HOST_KEY_PREFIX = "PGKEEP-HOST-KEY-1"
_HEX = frozenset("0123456789abcdef")


class HostKey(NamedTuple):
    """A host's own age identity, bound to one repository by its fingerprint."""

    fingerprint: str
    identity: str

    def __repr__(self) -> str:
        return f"HostKey({self.fingerprint}, …)"

    @property
    def text(self) -> str:
        return f"{HOST_KEY_PREFIX}:{self.fingerprint}:{self.identity}"


def parse_host_key(text: str) -> HostKey:
    """Raises ``ConfigError`` (without repeating the text, which is a secret)."""
    parts = text.strip().split(":")
    if not (
        len(parts) == 3
        and parts[0] == HOST_KEY_PREFIX
        and len(parts[1]) == 32
        and _HEX.issuperset(parts[1])
        and parts[2].startswith("AGE-SECRET-KEY-1")
    ):
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
            error = _changed(url, self._given.fingerprint, fingerprint, "the host key")
            error.remedy = (
                "If new keys were made on purpose (pgkeep keys), check the new fingerprint with "
                "whoever did it and put it into the host key, in the place of the old one: "
                f"{HOST_KEY_PREFIX}:{fingerprint}:AGE-SECRET-KEY-1… stays the same from there on. "
                "If not, somebody may have put another repository in its place: write nothing to "
                "it."
            )
            raise error
        facts = {"url": url, "id": repository_id, "fingerprint": fingerprint}
        path = self._url_file(url)
        pinned = self._read(path)
        if pinned is None:
            self._folder_of(path)
            # Of two processes that see the repository for the first time, one pins it.
            write_once(path, _pin_text(facts))
            pinned = self._read(path) or {}
        if (pinned.get("id"), pinned.get("fingerprint")) != (repository_id, fingerprint):
            raise _changed(url, str(pinned.get("fingerprint")), fingerprint, str(path))

    def pin(self, url: str, repository_id: str, fingerprint: str) -> None:
        """Remember that ``url`` is this repository (durable on return)."""
        facts = {"url": url, "id": repository_id, "fingerprint": fingerprint}
        path = self._url_file(url)
        self._folder_of(path)
        write_durably(path, _pin_text(facts))

    def host_key(self, repository_id: str) -> HostKey | None:
        """The key that this host holds for a repository, if any."""
        if self._given is not None:
            return self._given
        path = self._key_file(repository_id)
        text = self._read_text(path)
        return None if text is None else parse_host_key(text)

    def save_host_key(self, repository_id: str, key: HostKey) -> Path:
        """Write the host key (0600, durable on return); returns where."""
        path = self._key_file(repository_id)
        self._folder_of(path)
        write_durably(path, key.text.encode() + b"\n")
        return path

    def folder(self, *parts: str) -> Path:
        """A folder of the state directory, made if need be (0700)."""
        path = self.directory.joinpath(*parts)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _local(path, f"{error}") from error
        return path

    def _url_file(self, url: str) -> Path:
        from blake3 import blake3

        name = blake3(url.encode("utf-8", "surrogateescape")).hexdigest(length=12)
        return self.directory / "repositories" / f"{name}.json"

    def _key_file(self, repository_id: str) -> Path:
        return self.directory / "keys" / f"{repository_id}.host-key"

    def _read(self, path: Path) -> dict[str, Any] | None:
        text = self._read_text(path)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _local(path, f"{error}") from error
        if not isinstance(found, dict):
            raise _local(path, "it holds no pin")
        return found

    def _read_text(self, path: Path) -> str | None:
        try:
            _check_owned(path.parent, self.directory)
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_mode & 0o007:
                    raise _local(path, "anybody may read or write it; it should have mode 0600")
                return file.read(1 << 16)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _local(path, f"{error}") from error

    def _folder_of(self, path: Path) -> None:
        _check_owned(self.folder(path.parent.name), self.directory)
        fsync_directory(self.directory)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a small local file so that a crash leaves the old one or the new one."""
    _write(path, data, mode, os.replace)


def write_once(path: Path, data: bytes, *, mode: int = 0o600) -> bool:
    """Create a small local file, durable on return; False if there is one already."""
    try:
        _write(path, data, mode, _link)
    except FileExistsError:
        return False
    return True


def _write(path: Path, data: bytes, mode: int, publish: Any) -> None:
    # A name of its own for each writer: processes in several containers may have one pid.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise _local(path, f"{error}") from error


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless the name is taken (FileExistsError)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        temporary.replace(path)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_owned(folder: Path, directory: Path) -> None:
    """Raise ``LocalIOError`` unless nobody but us can put files into ``folder``."""
    found = os.lstat(folder)
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0:  # who acts for the directory's owner
        trusted.add(os.stat(directory).st_uid)  # noqa: PTH116
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted or found.st_mode & 0o022:
        raise _local(folder, "it is not a directory that its owner alone may write to")


def _pin_text(facts: dict[str, str]) -> bytes:
    return json.dumps(facts, indent=1).encode() + b"\n"


def _local(path: Path, why: str) -> LocalIOError:
    return LocalIOError(
        f"{path} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
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
