"""Durability on the other side: fsync@openssh.com, for files and for directories.

The extension takes an open file. OpenSSH's server opens a directory for reading as if it were a
file, and syncs that too: so a name there is as durable as here. Other servers refuse; then, after
an object has its name, the object is synced once more, which on the journaling file systems of
Linux (ext4, XFS, Btrfs) takes the name along. That is no promise, and ``can_promise`` says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_session import Session
from pgkeep.storage._sftp_transfer import all_of, patiently

# How a server says that it cannot, or will not, open or sync a directory.
_REFUSALS = (asyncssh.SFTPFailure, asyncssh.SFTPPermissionDenied, asyncssh.SFTPOpUnsupported)


class Syncing:
    """What the server can sync, found out by doing. ``own`` is a directory that is ours."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._files = True
        self._directories = True

    @property
    def can_promise(self) -> bool:
        """Whether nothing that was asked so far had to go without."""
        return self._files and self._directories

    async def file(self, file: asyncssh.SFTPClientFile) -> None:
        """Sync an open file, where the server can."""
        if self._files:
            try:
                await patiently(file.fsync())
            except asyncssh.SFTPOpUnsupported:
                self._files = self._directories = False

    async def name(self, session: Session, path: bytes, *, directories: Sequence[bytes]) -> None:
        """Make the name of a file durable, and those of all directories on its way."""
        if self._directories:
            try:
                await all_of(*(_sync(session, directory) for directory in directories))
            except _REFUSALS:
                if await self._can_sync(session, self._own):
                    raise
                self._directories = False
        if self._files and not self._directories:
            await _sync(session, path)

    async def directory(self, session: Session, path: bytes) -> None:
        """Make durable what is in a directory, and what is not in it any more."""
        if self._directories:
            try:
                await _sync(session, path)
            except _REFUSALS:
                if await self._can_sync(session, self._own):
                    raise
                self._directories = False

    async def existing(
        self, session: Session, path: bytes, *, directories: Sequence[bytes]
    ) -> None:
        """Make an object durable, whoever wrote it. What is gone meanwhile is nobody's loss."""
        if self._files:
            try:
                await _sync(session, path)
            except asyncssh.SFTPOpUnsupported:
                self._files = self._directories = False
        await self.name(session, path, directories=directories)

    async def try_out(self, session: Session) -> None:
        """Find out about directories before anything depends on it."""
        if self._directories:
            self._directories = await self._can_sync(session, self._own)

    async def _can_sync(self, session: Session, directory: bytes) -> bool:
        try:
            return await _sync(session, directory)
        except _REFUSALS:
            return False


async def _sync(session: Session, path: bytes) -> bool:
    """Sync a file or a directory by its name; False for one that is gone and needs it no more."""
    try:
        file = await patiently(session.client.open(path, "rb", block_size=0))
    except asyncssh.SFTPNoSuchFile:
        return False
    try:
        await patiently(file.fsync())
    finally:
        await patiently(file.close())
    return True
