"""Small files that a restore adds to, or rewrites in, the restored directory.

Each is written durably, belongs to the owner, and is remembered with its checksum: what
``backup_manifest`` does not name, ``pg_verifybackup`` reports.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pgkeep.restore.crc import crc32c
from pgkeep.restore.destination import Maker
from pgkeep.restore.syncing import unwritable


class ExtraFile(NamedTuple):
    """``path`` is relative to the data directory."""

    path: str
    size_bytes: int
    checksum: int


class Extras:
    """Writes files into ``into``; directories come from ``maker``."""

    def __init__(self, into: Path, maker: Maker) -> None:
        self.into, self.maker = into, maker
        self.files: dict[str, ExtraFile] = {}

    def write(self, path: str, content: bytes, *, mode: int = 0o600) -> Path:
        """Write a file whole, in place of one that is there. Raises ``LocalIOError``."""
        target = self.into / path
        self._make_parents(target)
        temporary = target.with_name(target.name + ".pgkeep-new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            handle = os.open(temporary, flags, mode)
            try:
                os.fchmod(handle, mode)
                self.maker.own(handle)
                view = memoryview(content)
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            temporary.replace(target)
        except OSError as error:
            raise unwritable(target, error) from error
        self.maker.made.append(target.parent)
        self.remember(path, len(content), crc32c(content))
        return target

    def remember(self, path: str, size_bytes: int, checksum: int) -> None:
        """A file that somebody else wrote."""
        self.files[path] = ExtraFile(path, size_bytes, checksum)

    def forget(self, path: str) -> None:
        """Remove a file, if it is there."""
        (self.into / path).unlink(missing_ok=True)
        self.files.pop(path, None)

    def read(self, path: str) -> str | None:
        """A restored file as text that can be written back unchanged; None if there is none."""
        try:
            return (self.into / path).read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unwritable(self.into / path, error) from error

    def write_text(self, path: str, text: str, *, mode: int = 0o600) -> Path:
        """The inverse of :meth:`read`."""
        return self.write(path, text.encode("utf-8", "surrogateescape"), mode=mode)

    def _make_parents(self, target: Path) -> None:
        missing = []
        folder = target.parent
        while folder != self.into and not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            self.maker.directory(folder, 0o700)
