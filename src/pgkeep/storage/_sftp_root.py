"""The repository's directory on the server, and the proof that it is still there.

Absence is a grave thing to say: "no such object" may end a recovery. The protocol says "no such
file" also when the file system of the repository is not mounted, and tells no device or inode by
which a directory could be known again. But every repository has a directory of our own in it,
and an empty mount point has not. So before absence is said, that directory is seen.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from typing import cast

from pgkeep.errors import ObjectNotFound, StoreError, StoreUnavailable
from pgkeep.storage._publish import OWN_DIRECTORY
from pgkeep.storage._sftp_address import Address
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_session import Session
from pgkeep.storage._sftp_sync import Syncing
from pgkeep.storage._sftp_transfer import patiently
from pgkeep.storage.interface import check_key

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_ATTEMPTS = 5


class Root:
    """The directory at ``address.path``. Methods raise asyncssh's errors, unless they say else."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.url = address.url
        self.own = self.path(OWN_DIRECTORY)
        self.temporary = self.own + b"/tmp"
        self.syncing = Syncing(self.temporary)
        # Whether hard links are possible; false once one was not.
        self.can_link = True
        self._is_marked = True

    def show(self, key: str) -> str:
        """The path of an object as messages name it."""
        return self.path(key).decode("utf-8", "backslashreplace")

    def path(self, name: str) -> bytes:
        """Where ``name`` lies, a key or a part of one."""
        return self.address.path + b"/" + name.encode("ascii") if name else self.address.path

    def path_of(self, key: str) -> bytes:
        """Where the object of ``key`` lies. Raises ``StoreError`` for an illegal key."""
        return self.path(check_key(key))

    def directories_of(self, key: str) -> list[bytes]:
        """The directory of ``key``'s object and all above it, the repository's own the last."""
        found = []
        path = self.path_of(key)
        while len(path) > len(self.address.path):
            path = path.rpartition(b"/")[0]
            found.append(path)
        return found

    async def open(self, session: Session, *, create: bool) -> None:
        """Find the directory, or make it. Without ``create``, one that is missing or empty raises
        ``StoreUnavailable``: it looks just like a file system that is not mounted."""
        made = await self._make_root(session) if create else []
        found = await session.lstat(self.address.path)
        if found is None:
            raise self._nothing_there("is missing")
        if is_link(found):
            found = await patiently(session.client.stat(self.address.path))
        if not is_directory(found):
            raise StoreError(
                f"{self.url} is not a directory.",
                remedy="Name the directory of the repository.",
            )
        if await session.lstat(self.own) is None:
            if not create and not await entries_of(session, self.address.path):
                raise self._nothing_there("is empty")
            self._is_marked = False
            # A copy made without it may be ours only to read: then the top directory must do.
            with suppress(asyncssh.SFTPError):
                await self.make_own(session)
        for path in made:
            with suppress(asyncssh.SFTPPermissionDenied):  # what is above may not be ours to read
                await self.syncing.directory(session, path.rpartition(b"/")[0] or b"/")

    async def make_own(self, session: Session) -> None:
        """Make the directory of temporary files, in a repository that is surely there."""
        await self.check(session)
        if not self._is_marked:
            await make_directory(session, self.own)
            self._is_marked = True
        await make_directory(session, self.temporary)

    async def make_way(self, session: Session, key: str) -> None:
        """Make the directories in which ``key``'s object lies."""
        missing = []
        for path in self.directories_of(key)[:-1]:
            found = await session.lstat(path)
            if found is not None:
                if not is_directory(found):
                    raise self.in_the_way(self._name_of(path), found)
                break
            missing.append(path)
        for path in reversed(missing):
            await make_directory(session, path)

    async def check(self, session: Session) -> None:
        """Raise ``StoreUnavailable`` unless the repository's directory is there."""
        found = await session.lstat(self.own if self._is_marked else self.address.path)
        if found is None:
            raise StoreUnavailable(
                f"The repository directory {self.url} is not the one that was opened.",
                why=f"There is no {OWN_DIRECTORY} in it any more, or it is gone.",
                remedy="Mount its file system on the server, or put the directory back.",
            )

    async def absent(self, session: Session, key: str) -> ObjectNotFound:
        """A positive no, or what stands against saying it is raised."""
        await self.check(session)
        return ObjectNotFound(f"There is no object {key} in {self.url}.", key=key)

    def in_the_way(self, name: str, found: asyncssh.SFTPAttrs) -> StoreError:
        """What to say of that which stands where an object or a directory should."""
        if is_link(found):
            return self.refuse_link(name)
        kind = "a directory" if is_directory(found) else "no directory"
        return StoreError(
            f"There is {kind} at {name} in {self.url}.",
            why="An object and a directory of objects cannot have one name here.",
            remedy="See which other program writes in the repository.",
            path=self.show(name),
        )

    def refuse_link(self, name: str) -> StoreError:
        """What to say of a symbolic link in the place of an object or a directory."""
        return StoreError(
            f"{name!r} in the repository {self.url} is a symbolic link.",
            why="pgkeep follows no links inside a repository: what lies behind one could be "
            "missing without anybody noticing.",
            remedy="Replace the link by what it points to, or by a bind mount.",
        )

    async def _make_root(self, session: Session) -> list[bytes]:
        """Make the directory and what is missing above it, all of which is returned."""
        missing: list[bytes] = []
        path = self.address.path
        while path and await session.lstat(path) is None:
            missing.insert(0, path)
            path = path.rpartition(b"/")[0]
        for path in missing:
            await make_directory(session, path)
        return missing

    def _name_of(self, path: bytes) -> str:
        return path[len(self.address.path) + 1 :].decode("ascii")

    def _nothing_there(self, state: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"The repository directory {self.url} {state}.",
            why="Nothing was initialised there, or its file system is not mounted.",
            remedy="Mount it on the server; or make a new repository with 'pgkeep init'.",
        )


async def make_directory(session: Session, path: bytes) -> None:
    """Make one directory, unless somebody else just did."""
    attributes = asyncssh.SFTPAttrs(permissions=DIRECTORY_MODE)
    for left in reversed(range(_ATTEMPTS)):
        try:
            await patiently(session.client.mkdir(path, attributes))
            return
        except asyncssh.SFTPError as error:
            found = await session.lstat(path)
            if found is not None and is_directory(found):
                return
            # "Failure" may also mean that it was there, and somebody has removed it since.
            if found is not None or not left or not isinstance(error, asyncssh.SFTPFailure):
                raise


def is_directory(found: asyncssh.SFTPAttrs) -> bool:
    """Whether the facts are a directory's."""
    return stat.S_ISDIR(found.permissions or 0)


def is_file(found: asyncssh.SFTPAttrs) -> bool:
    """Whether the facts are an object's."""
    return stat.S_ISREG(found.permissions or 0)


def is_link(found: asyncssh.SFTPAttrs) -> bool:
    """Whether the facts are a symbolic link's."""
    return stat.S_ISLNK(found.permissions or 0)


async def entries_of(session: Session, path: bytes) -> list[tuple[bytes, asyncssh.SFTPAttrs]]:
    """Name and facts of all that is in a directory."""
    found = await patiently(session.client.readdir(path))
    # Names are text only where the path was.
    named = [(cast(bytes, entry.filename), entry.attrs) for entry in found]
    return [(name, facts) for name, facts in named if name not in (b".", b"..")]
