"""Objects of a directory tree on the server in the order of their keys (see ``_listing``).

A directory is read in one call, and no session is held between two: whoever lists may delete
meanwhile, and needs a session for that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from pgkeep.storage._listing import LOST_AND_FOUND, is_legal
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_root import Root, entries_of, is_directory, is_file, is_link
from pgkeep.storage._sftp_session import Session

Facts = asyncssh.SFTPAttrs
_Entries = list[tuple[str, Facts]]
_Run = Callable[[Callable[[Session], Coroutine[Any, Any, _Entries]]], _Entries]


class Lister:
    """Walks the tree below ``root``; ``run`` does one thing in a session."""

    def __init__(self, root: Root, run: _Run) -> None:
        self._root = root
        self._run = run

    def objects(self, prefix: str, *, after: str) -> Iterator[tuple[str, Facts]]:
        """Key and facts of each object whose key starts with ``prefix`` and is after ``after``.

        What is deleted meanwhile may or may not appear. Anything that cannot be read is an
        error: a listing that is silently short would look like backups that do not exist.
        """
        *parts, _ = prefix.split("/")
        if all(is_legal(part) for part in parts):
            yield from self._walk("".join(f"{part}/" for part in parts), prefix, after)

    def _walk(self, base: str, prefix: str, after: str) -> Iterator[tuple[str, Facts]]:
        for name, facts in self._run(lambda session: self._entries(session, base)):
            path = base + name
            if not path.startswith(prefix) and not (name[-1] == "/" and prefix.startswith(path)):
                continue
            if name[-1] != "/":
                if path > after:
                    yield path, facts
            elif (path > after or after.startswith(path)) and path != LOST_AND_FOUND:
                yield from self._walk(path, prefix, after)

    async def _entries(self, session: Session, base: str) -> _Entries:
        """What is in a directory, a ``/`` after the names of directories, in that order."""
        where = self._root.path(base).removesuffix(b"/")
        try:
            found = await entries_of(session, where)
        except asyncssh.SFTPNoSuchFile:
            return []  # deleted meanwhile, or the whole repository is gone: the caller looks
        entries = []
        for raw, told in found:
            name = raw.decode("ascii", "replace")
            if is_legal(name):
                facts = await self._complete(session, base + name, told)
                if facts is not None:
                    entries.append((f"{name}/" if is_directory(facts) else name, facts))
        entries.sort(key=lambda entry: entry[0])
        return entries

    async def _complete(self, session: Session, path: str, facts: Facts) -> Facts | None:
        """The facts of a file or a directory; None if it is neither."""
        if None in (facts.permissions, facts.size, facts.mtime):
            again = await session.lstat(self._root.path(path))
            if again is None:
                return None
            facts = again
        if is_link(facts):
            raise self._root.refuse_link(path)
        return facts if is_file(facts) or is_directory(facts) else None
