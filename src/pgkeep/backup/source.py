"""Walking a data directory: what there is to back up, without reading any of it.

Links are followed where PostgreSQL follows them (tablespaces, ``pg_wal``, a file that an
administrator moved), and only tablespaces are remembered as links: everything else is restored
in its place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import LocalIOError
from pgkeep.postgres.exclusions import Exclusions, empty_directories
from pgkeep.repository.manifest import DATA_DIRECTORY, OUTSIDE

CONTROL_FILE = "global/pg_control"
_TABLESPACES = "pg_tblspc"


class SourceFile(NamedTuple):
    """A file to read. ``path`` is what the manifest calls it, ``place`` where it lies now.

    Times in microseconds since 1970, as they were before the file is read.
    """

    path: str
    place: str
    area: int
    size_bytes: int
    mode: int
    mtime_us: int
    ctime_us: int
    inode: int


@dataclass
class Source:
    """Everything that a backup of one data directory consists of, but for ``pg_control``."""

    files: list[SourceFile] = field(default_factory=list)
    directories: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def walk_data_directory(pgdata: Path, *, major: int, catalog_version: int) -> Source:
    """What to back up of ``pgdata``. ``pg_control`` is left to the caller, who reads it last.

    Raises ``LocalIOError`` when something cannot be looked at; what vanishes meanwhile is left out.
    """
    walker = _Walker(pgdata, f"PG_{major}_{catalog_version}")
    walker.walk("", str(pgdata))
    for path in empty_directories(major):
        walker.source.directories.setdefault(path, 0o700)
    walker.source.files.sort(key=lambda file: (-file.size_bytes, file.path))
    return walker.source


def outside_file(place: str) -> SourceFile | None:
    """A configuration file that lies outside the data directory; None when it is gone."""
    try:
        found = Path(place).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(place, error) from error
    return _file(place, place, OUTSIDE, found)


class _Walker:
    def __init__(self, pgdata: Path, tablespace_folder: str) -> None:
        self.source = Source()
        self._exclusions = Exclusions()
        self._tablespace_folder = tablespace_folder
        self._visited: set[tuple[int, int]] = set()

    def walk(self, path: str, place: str) -> None:
        entries = sorted(self._entries(place), key=lambda entry: entry.name)
        unlogged: set[str] = set()
        if self._exclusions.may_hold_unlogged(path):
            unlogged = self._exclusions.unlogged([entry.name for entry in entries])
        for entry in entries:
            below = f"{path}/{entry.name}" if path else entry.name
            if entry.name not in unlogged and not self._exclusions.excludes_file(below):
                self._look_at(below, entry)

    def _entries(self, place: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(place) as entries:
                yield from entries
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(place, error) from error

    def _look_at(self, path: str, entry: os.DirEntry[str]) -> None:
        try:
            if entry.is_symlink() and path.startswith(_TABLESPACES + "/"):
                self.source.links[path] = str(Path(entry.path).readlink())
            found = entry.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(entry.path, error) from error
        if stat.S_ISDIR(found.st_mode):
            self._directory(path, entry.path, found)
        elif not stat.S_ISREG(found.st_mode):
            self.source.left_out.append(path)
        elif path != CONTROL_FILE:
            self.source.files.append(_file(path, entry.path, DATA_DIRECTORY, found))

    def _directory(self, path: str, place: str, found: os.stat_result) -> None:
        identity = (found.st_dev, found.st_ino)
        if identity in self._visited:
            self.source.left_out.append(path)
            return
        self._visited.add(identity)
        if path not in self.source.links:
            self.source.directories[path] = stat.S_IMODE(found.st_mode)
        if self._exclusions.excludes_contents(path):
            return
        if path.count("/") == 1 and path.startswith(_TABLESPACES + "/"):
            self._tablespace(path, place)
        else:
            self.walk(path, place)

    def _tablespace(self, path: str, place: str) -> None:
        # Several versions may share a location, each in a folder of its own (pg_upgrade).
        folder = Path(place, self._tablespace_folder)
        if folder.is_dir():
            below = f"{path}/{self._tablespace_folder}"
            self.source.directories[below] = stat.S_IMODE(folder.stat().st_mode)
            self.walk(below, str(folder))


def _file(path: str, place: str, area: int, found: os.stat_result) -> SourceFile:
    return SourceFile(
        path,
        place,
        area,
        found.st_size,
        stat.S_IMODE(found.st_mode),
        found.st_mtime_ns // 1000,
        found.st_ctime_ns // 1000,
        found.st_ino,
    )


def _unreadable(place: str, error: OSError) -> LocalIOError:
    return LocalIOError(
        f"{place} cannot be read.",
        why=f"{error.strerror}.",
        remedy="Run pgkeep as the owner of the data directory, or as root.",
        path=place,
    )
