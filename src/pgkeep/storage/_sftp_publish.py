"""How a whole object appears at once on the server, or not at all.

As in a local directory (see ``_publish``): the bytes are written under a temporary name in a
directory of ours and synced, and then get their name. With hardlink@openssh.com that fails if
the name is taken, in one step. Without it the protocol's own rename does, which must not
overwrite; but servers look first and rename then, or even overwrite, so nothing is promised
(``Capabilities.conditional_create``). With posix-rename@openssh.com an object is overwritten in
one step; without it, it is not overwritten: to remove it first could lose both.

No locks reach over SFTP. So what dead writers leave is swept by age alone, a day by the server's
clock, and compare-and-swap is not possible.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from pgkeep.errors import StoreDenied, StoreError, StoreUnavailable
from pgkeep.storage._publish import new_name
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_problems import ends_session, room_of, sftp_problem
from pgkeep.storage._sftp_root import FILE_MODE, Root, entries_of, is_file
from pgkeep.storage._sftp_session import Session
from pgkeep.storage._sftp_transfer import all_of, patiently, write_all

_ATTEMPTS = 100
_FAILURES = 3
_SWEEP_SECONDS = 24 * 3600
_NAME = re.compile(rb"put-[0-9a-f]{32}")


class Temporary:
    """A file on the server that is being written and that nobody sees.

    ``key`` is the object that it shall be, for messages. ``facts`` are that object's, once
    written. A session that ended is raised as asyncssh has it; all else is in our words.
    """

    def __init__(
        self, session: Session, root: Root, file: asyncssh.SFTPClientFile, name: bytes
    ) -> None:
        self.name = name
        self.facts = asyncssh.SFTPAttrs()
        self._session = session
        self._root = root
        self._file = file

    async def write(self, key: str, views: Sequence[memoryview]) -> None:
        """Write all pieces in order, and sync."""
        limit_bytes = self._session.client.limits.max_write_len
        try:
            await write_all(self._file, views, limit_bytes=limit_bytes)
            # Asked for in one go, and answered in that order.
            _, self.facts = await asyncio.gather(
                self._root.syncing.file(self._file), patiently(self._file.stat())
            )
        except asyncssh.SFTPError as error:
            raise await self._problem(error, key) from error

    async def create(self, key: str) -> bool:
        """Appear as the object if it is not there; False if it is."""
        failures = 0
        for _ in range(_ATTEMPTS):
            try:
                await self.link(self._root.path_of(key))
                return True
            except asyncssh.SFTPNoSuchFile:
                await self._make_way(key)
            except asyncssh.SFTPError as error:
                if ends_session(error):
                    raise
                # Is the name taken, or was it, or is it something else? The server does not say.
                if await self._is_taken(key):
                    return False
                failures += 1
                if failures == _FAILURES or not isinstance(error, asyncssh.SFTPFailure):
                    raise await self._problem(error, key) from error
        raise self._again_and_again(key)

    async def replace(self, key: str) -> None:
        """Appear as the object, in the place of what is there. Raises ``StoreDenied`` where that
        would have to be removed first."""
        for _ in range(_ATTEMPTS):
            try:
                await patiently(
                    self._session.client.posix_rename(self.name, self._root.path_of(key))
                )
                return
            except asyncssh.SFTPOpUnsupported:
                if await self.create(key):
                    return
                raise self._cannot_replace(key) from None
            except asyncssh.SFTPNoSuchFile:
                await self._make_way(key)
            except asyncssh.SFTPError as error:
                raise await self._problem(error, key) from error
        raise self._again_and_again(key)

    async def link(self, target: bytes) -> None:
        """Appear under a path that is free. Raises asyncssh's errors."""
        client = self._session.client
        if self._root.can_link:
            try:
                await patiently(client.link(self.name, target))
                return
            except asyncssh.SFTPOpUnsupported:
                self._root.can_link = False
            except asyncssh.SFTPPermissionDenied:
                # A file system without hard links says this too: the rename below will tell.
                pass
        if await self._session.lstat(target) is not None:
            # Some servers overwrite with a rename that must not.
            raise asyncssh.SFTPFailure("the name is taken")
        await patiently(client.rename(self.name, target))
        self._root.can_link = False

    async def remove(self) -> None:
        """Give the temporary name back, whether it is still there or not."""
        with suppress(asyncssh.SFTPError):
            await all_of(self._file.close(), self._session.client.remove(self.name))

    async def _is_taken(self, key: str) -> bool:
        found = await self._session.lstat(self._root.path_of(key))
        if found is None or is_file(found):
            return found is not None
        raise self._root.in_the_way(key, found)

    async def _make_way(self, key: str) -> None:
        """Make the directories again: whoever deletes the last object of one removes it."""
        await self._root.check(self._session)
        if await self._session.lstat(self.name) is None:
            raise StoreUnavailable(
                f"The temporary file of a write to {self._root.url} vanished before it was done.",
                why=f"It was older than {_SWEEP_SECONDS // 3600} hours, or another program "
                "removed it.",
                remedy="Nothing was stored; the write can be tried again.",
                key=key,
            )
        try:
            await self._root.make_way(self._session, key)
        except asyncssh.SFTPNoSuchFile:
            return  # removed at this very moment: the next attempt makes it again
        except asyncssh.SFTPError as error:
            raise await self._problem(error, key) from error

    async def _problem(self, error: asyncssh.SFTPError, key: str) -> BaseException:
        """In our words, while the file that found no room still takes it."""
        if ends_session(error):
            return error
        return await problem_of(error, self._session, self._root, doing="store", key=key)

    def _again_and_again(self, key: str) -> StoreError:
        return StoreUnavailable(
            f"The directory of {key} in {self._root.url} was removed again and again.",
            remedy="See which other program deletes in the repository.",
            key=key,
        )

    def _cannot_replace(self, key: str) -> StoreError:
        return StoreDenied(
            f"The object {key} in {self._root.url} was not overwritten.",
            why="The server cannot rename over a file (posix-rename@openssh.com), and to remove "
            "it first could lose both.",
            remedy="Delete the object, or use a server that can.",
            key=key,
        )


@asynccontextmanager
async def temporary(session: Session, root: Root) -> AsyncIterator[Temporary]:
    """A temporary file of ``root``; its temporary name is gone afterwards, if we can still ask."""
    name = root.temporary + b"/" + new_name().encode()
    attributes = asyncssh.SFTPAttrs(permissions=FILE_MODE)
    opening = session.client.open(name, "xb", attributes, block_size=0)
    try:
        file = await patiently(opening)
    except asyncssh.SFTPNoSuchFile:
        await root.make_own(session)
        file = await patiently(session.client.open(name, "xb", attributes, block_size=0))
    made = Temporary(session, root, file, name)
    try:
        yield made
    except BaseException as error:
        if not ends_session(error):
            await made.remove()
        raise
    await made.remove()


async def problem_of(
    error: asyncssh.SFTPError, session: Session, root: Root, *, doing: str, key: str
) -> StoreError:
    """The error to raise, with a look at the room there is: servers seldom say that it is that."""
    room = None
    if not isinstance(error, asyncssh.SFTPOpUnsupported):
        with suppress(asyncssh.SFTPError):
            room = room_of(await patiently(session.client.statvfs(root.address.path)))
    return sftp_problem(error, root.address, doing=doing, path=root.show(key), room=room)


async def sweep(session: Session, root: Root, *, now: int, but: bytes) -> None:
    """Remove what writers left that died a day ago, by the server's clock, except ``but``."""
    for name, facts in await entries_of(session, root.temporary):
        path = root.temporary + b"/" + name
        is_old = facts.mtime is not None and now - facts.mtime > _SWEEP_SECONDS
        if is_old and _NAME.fullmatch(name) and path != but:
            # Another process was faster, or it is another user's: a leftover does no harm.
            with suppress(asyncssh.SFTPError):
                await patiently(session.client.remove(path))
