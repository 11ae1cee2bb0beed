"""A WAL file on the local disk, opened to be pushed.

Its head is read at once and the rest when it is needed: a push that was made ahead is answered
from the file's stat alone, without reading a segment of perhaps a gibibyte. The stat that counts is
taken from the open file, before and after reading: what changed meanwhile was no finished file.

The bytes are read into memory and never mapped: a file cut short under a mapping would kill us
with a signal, upon which the archiver restarts instead of reporting what is wrong.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pgkeep.errors import ArchiveError, ForeignWal, LocalIOError, UsageError
from pgkeep.postgres.wal_name import WalKind, WalName, parse_wal_name

HEAD_BYTES = 8192


class FileMark(NamedTuple):
    """What tells whether a file is still the same; times in nanoseconds."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class WalSource:
    """An open WAL file. Use it in a ``with``."""

    def __init__(self, path: str) -> None:
        """Opens the file and reads its head. Raises ``UsageError``, ``LocalIOError``."""
        self.path = path
        self.name: WalName = parsed_name(os.path.basename(path))  # noqa: PTH119
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            self.head = os.read(self._handle, HEAD_BYTES)
            self.mark = self._look()
        except OSError as error:
            os.close(self._handle)
            raise _unreadable(path, error) from error

    def __enter__(self) -> WalSource:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self) -> bytes:
        """The whole content. Raises ``ArchiveError`` when the file changed meanwhile."""
        try:
            content = self._read_all()
            changed = self._look() != self.mark
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if changed or len(content) != self.mark.size:
            raise ArchiveError(
                f"{self.name.name} changed while it was read, and was not pushed.",
                why="PostgreSQL archives only files that it has finished writing.",
                remedy="Let the server call wal-push by itself; it will ask again.",
            )
        return content

    def check(self, *, system_identifier: int, segment_size: int, any_magic: bool) -> None:
        """Raise ``ForeignWal`` unless this is what its name says, and this cluster's.

        ``any_magic`` accepts a major version that we do not know. For a history file see
        ``check_history``: it has no header.
        """
        if self.name.kind not in (WalKind.SEGMENT, WalKind.PARTIAL):
            return
        from pgkeep.postgres.segment import check_segment, parse_segment_header

        check_segment(
            parse_segment_header(self.head),
            self.name,
            system_identifier=system_identifier,
            segment_size=segment_size,
            allow_unknown_magic=any_magic,
        )
        if self.mark.size != segment_size:
            raise ForeignWal(
                f"{self.name.name} has {self.mark.size} bytes and was not accepted.",
                why=f"A segment of this cluster has {segment_size} bytes.",
                remedy="Look at the file in pg_wal; if it was truncated there, that disk is "
                "in trouble.",
            )

    def _read_all(self) -> bytes:
        pieces: list[bytes] = []
        offset = 0
        # One read for all but enormous files: Linux ends a read at 2 GiB.
        while piece := os.pread(self._handle, self.mark.size - offset + 1, offset):
            pieces.append(piece)
            offset += len(piece)
            if offset > self.mark.size:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _look(self) -> FileMark:
        found = os.fstat(self._handle)
        return FileMark(
            self.name.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
        )

    @property
    def modified_seconds(self) -> float:
        """mtime, in seconds since the epoch."""
        return self.mark.mtime_ns / 1e9


def parsed_name(name: str) -> WalName:
    """The name taken apart. Raises ``UsageError`` for what is no WAL file's name."""
    try:
        return parse_wal_name(name)
    except ValueError as error:
        raise UsageError(
            f"{name!r} is not a file that PostgreSQL archives.",
            why=f"It is {error}.",
            remedy="Set archive_command = 'pgkeep wal-push %p' and "
            "restore_command = 'pgkeep wal-fetch %f %p'.",
        ) from error


def check_history(source: WalSource, content: bytes) -> None:
    """Raise ``BrokenServerFile`` for a history file that no server could recover with."""
    if source.name.kind is WalKind.HISTORY:
        from pgkeep.postgres.history import parse_history

        parse_history(content, source.name.timeline)


def _unreadable(path: str, error: OSError) -> LocalIOError:
    return LocalIOError(
        f"{path} cannot be read.",
        why=f"{error.strerror}.",
        remedy="Check the path; PostgreSQL passes it relative to its data directory, as %p.",
        path=path,
    )
