"""The reading half of an SFTP server as a store: everything that needs no right to write."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from pgkeep.errors import StoreError
from pgkeep.storage._ranges import check_range, merge_ranges
from pgkeep.storage._sftp_address import parse_address
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_listing import Lister
from pgkeep.storage._sftp_pool import SessionPool
from pgkeep.storage._sftp_problems import FAILURES, ends_session, sftp_problem
from pgkeep.storage._sftp_publish import problem_of
from pgkeep.storage._sftp_root import Root, is_file, is_link
from pgkeep.storage._sftp_session import Login, Session, open_session
from pgkeep.storage._sftp_transfer import patiently, read_span
from pgkeep.storage._sftp_trust import KnownHosts
from pgkeep.storage.interface import Buffer, ObjectInfo, Store, check_key

# After that long without a sign of life the other side counts as gone.
SILENCE_SECONDS = 40.0

_Result = TypeVar("_Result")
_Work = Callable[[Session], Coroutine[Any, Any, _Result]]


class SftpReader(Store):
    """Objects as files on a server; ``SftpStore`` adds how they come there."""

    request_bytes = 8 << 20

    def __init__(
        self,
        url: str,
        *,
        key_file: str | None = None,
        known_hosts: str | None = None,
        password: str | None = None,
        create: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        address = parse_address(url)
        hosts = KnownHosts(known_hosts)
        login = Login(key_file, password)
        self.url = address.url
        self._root = Root(address)
        self._pool = SessionPool(
            lambda: open_session(address, hosts, login, silence_seconds=silence_seconds),
            server=address.server,
        )
        try:
            self._run(lambda session: self._root.open(session, create=create), "open", "")
        except BaseException:
            self._pool.close()
            raise

    def get(self, key: str) -> bytes:
        """See :meth:`Store.get`."""
        return self._run(lambda session: self._read(session, key, 0, None), "read", key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See :meth:`Store.get_range`."""
        check_range(start, length)
        return self._run(lambda session: self._read(session, key, start, length), "read", key)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """See :meth:`Store.get_ranges`. Opens once, and reads near ranges at once."""
        merged = merge_ranges(ranges)
        results: list[Buffer] = [b""] * len(ranges)

        async def read(session: Session) -> None:
            async with self._opened(session, key) as (file, size_bytes):
                for group in merged:
                    length = max(0, min(group.length, size_bytes - group.start))
                    data = memoryview(await self._span(session, file, group.start, length))
                    for place, start, wanted in group.wanted:
                        offset = start - group.start
                        results[place] = data[offset : offset + wanted]

        self._run(read, "read", key)
        return results

    def head(self, key: str) -> ObjectInfo:
        """See :meth:`Store.head`."""

        async def look(session: Session) -> ObjectInfo:
            found = await self._look(session, key)
            if found is None:
                raise await self._root.absent(session, key)
            return info_of(key, found)

        return self._run(look, "look at", key)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`. Holds the names of one directory a level at a time."""
        self._run(self._root.check, "list", "")
        lister = Lister(self._root, lambda work: self._run(work, "list", prefix))
        for key, found in lister.objects(prefix, after=start_after or ""):
            yield info_of(key, found)
        self._run(self._root.check, "list", "")

    def close(self) -> None:
        """End the connections."""
        self._pool.close()

    def __del__(self) -> None:
        # At the end of the process the thread that could say goodbye is gone.
        if hasattr(self, "_pool") and not sys.is_finalizing():
            self._pool.close()

    def _run(self, work: _Work[_Result], doing: str, key: str) -> _Result:
        """Do ``work`` in a session; what the server says comes out as ``Store`` promises."""

        async def explained(session: Session) -> _Result:
            try:
                return await work(session)
            except asyncssh.SFTPError as error:
                if ends_session(error):
                    raise
                if isinstance(error, asyncssh.SFTPNoSuchFile):
                    await self._root.check(session)
                raise await problem_of(error, session, self._root, doing=doing, key=key) from error

        with self._failing(doing, key):
            return self._pool.run(explained)

    @contextmanager
    def _failing(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            path = self._root.show(key)
            raise sftp_problem(error, self._root.address, doing=doing, path=path) from error

    async def _look(self, session: Session, key: str) -> asyncssh.SFTPAttrs | None:
        """The object's facts; None if there is nothing, or a directory, say."""
        found = await session.lstat(self._root.path_of(key))
        if found is not None and is_link(found):
            raise self._root.refuse_link(key)
        return found if found is not None and is_file(found) else None

    async def _read(self, session: Session, key: str, start: int, length: int | None) -> bytes:
        async with self._opened(session, key) as (file, size_bytes):
            rest = max(0, size_bytes - start)
            wanted = rest if length is None else min(length, rest)
            return await self._span(session, file, start, wanted)

    @asynccontextmanager
    async def _opened(
        self, session: Session, key: str
    ) -> AsyncIterator[tuple[asyncssh.SFTPClientFile, int]]:
        """The object's file and its size."""
        file = await self._open(session, key)
        try:
            # Of the open file: one of that name may have taken its place.
            yield file, (await patiently(file.stat())).size or 0
        finally:
            with suppress(asyncssh.SFTPError):
                await patiently(file.close())

    async def _open(self, session: Session, key: str) -> asyncssh.SFTPClientFile:
        """Open and look at once, for the server opens what a link points to, and directories."""
        path = self._root.path_of(key)
        found, file = await patiently(
            asyncio.gather(
                self._look(session, key),
                session.client.open(path, "rb", block_size=0),
                return_exceptions=True,
            )
        )
        if not isinstance(file, BaseException):
            if isinstance(found, asyncssh.SFTPAttrs):
                return file
            await patiently(file.close())
        for outcome in (found, file):
            if isinstance(outcome, BaseException) and not isinstance(
                outcome, asyncssh.SFTPNoSuchFile
            ):
                raise outcome
        raise await self._root.absent(session, key)

    async def _span(
        self, session: Session, file: asyncssh.SFTPClientFile, start: int, length: int
    ) -> bytes:
        if length == 0:
            return b""
        limit_bytes = session.client.limits.max_read_len
        return await read_span(file, start, length, limit_bytes=limit_bytes)


def etag_of(found: asyncssh.SFTPAttrs) -> str:
    """Size and time in whole seconds are all that the protocol tells of a version. Two writes
    in one second may share it; so nothing may rely on it, and there is no compare-and-swap."""
    return f"{found.mtime or 0:x}-{found.size or 0:x}"


def info_of(key: str, found: asyncssh.SFTPAttrs) -> ObjectInfo:
    """What the file's facts are to whoever asks for the object's."""
    modified = datetime.fromtimestamp(found.mtime or 0, UTC)
    return ObjectInfo(key, found.size or 0, modified, etag_of(found))


def checked(key: str) -> StoreError | None:
    """What is wrong with a key, if anything."""
    try:
        check_key(key)
    except StoreError as error:
        return error
    return None
