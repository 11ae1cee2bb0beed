"""Walking a data directory: what there is to back up, without reading any of it.

Links are followed where PostgreSQL follows them (tablespaces, ``pg_wal``, what an administrator
moved), and only tablespaces are remembered as links: everything else is restored in its place.
A directory that can be reached in several ways is taken once: as a tablespace, else where it
really lies, else through a link.

A tablespace that the server has and we do not see is an error. In a container of our own its
link may lead to nothing, and a backup without it would look complete.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import LocalIOError, WrongDataDirectory
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


def walk_data_directory(
    pgdata: Path, *, major: int, catalog_version: int, tablespaces: Collection[int] = ()
) -> Source:
    """What to back up of ``pgdata``. ``pg_control`` is left to the caller, who reads it last.

    ``tablespaces`` are the oids that the server names. Raises ``LocalIOError`` when something
    cannot be looked at, ``WrongDataDirectory`` when a tablespace is not seen from here; what
    vanishes meanwhile is left out.
    """
    walker = _Walker(pgdata, f"PG_{major}_{catalog_version}", tablespaces)
    walker.run()
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
    def __init__(self, pgdata: Path, tablespace_folder: str, tablespaces: Collection[int]) -> None:
        self.source = Source()
        self._exclusions = Exclusions()
        self._pgdata = str(pgdata)
        self._tablespace_folder = tablespace_folder
        self._tablespaces = {str(oid) for oid in tablespaces}
        self._visited: set[tuple[int, int]] = set()
        self._linked: list[tuple[str, os.DirEntry[str], os.stat_result]] = []

    def run(self) -> None:
        try:
            self._visit(Path(self._pgdata).stat())
        except OSError as error:
            raise _unreadable(self._pgdata, error) from error
        self._walk("", self._pgdata)
        while self._linked:
            self._directory(*self._linked.pop(0))

    def _walk(self, path: str, place: str) -> None:
        entries = sorted(self._entries(place), key=_tablespaces_first)
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
        found = _stat(entry)
        if found is None:
            if not _leads_nowhere(entry):
                return
            self._check_tablespace(path, None)
            self.source.left_out.append(path)
        elif stat.S_ISDIR(found.st_mode):
            if entry.is_symlink() and not _is_tablespace(path):
                self._linked.append((path, entry, found))
            else:
                self._directory(path, entry, found)
        elif not stat.S_ISREG(found.st_mode):
            self.source.left_out.append(path)
        elif path != CONTROL_FILE:
            self.source.files.append(_file(path, entry.path, DATA_DIRECTORY, found))

    def _directory(self, path: str, entry: os.DirEntry[str], found: os.stat_result) -> None:
        if not self._visit(found):
            self.source.left_out.append(path)
            return
        if _is_tablespace(path) and entry.is_symlink():
            try:
                self.source.links[path] = str(Path(entry.path).readlink())
            except FileNotFoundError:
                return
        else:
            self.source.directories[path] = stat.S_IMODE(found.st_mode)
        if self._exclusions.excludes_contents(path):
            return
        if _is_tablespace(path):
            self._tablespace(path, entry.path)
        else:
            self._walk(path, entry.path)

    def _tablespace(self, path: str, place: str) -> None:
        # Several versions may share a location, each in a folder of its own (pg_upgrade).
        folder = f"{place}/{self._tablespace_folder}"
        try:
            found = Path(folder).stat()
        except FileNotFoundError:
            self._check_tablespace(path, folder)
            return
        except OSError as error:
            raise _unreadable(folder, error) from error
        below = f"{path}/{self._tablespace_folder}"
        self.source.directories[below] = stat.S_IMODE(found.st_mode)
        self._walk(below, folder)

    def _check_tablespace(self, path: str, folder: str | None) -> None:
        """A tablespace is not there; that is fine if the server does not know it either."""
        if not _is_tablespace(path) or path.rpartition("/")[2] not in self._tablespaces:
            return
        place = os.path.realpath(folder or f"{self._pgdata}/{path}")
        raise WrongDataDirectory(
            f"The tablespace {path} of the server is not to be seen from here.",
            why=f"There is no {place} on this machine, or in this container.",
            remedy="Mount the tablespace's directory here under the same path. If the tablespace "
            "was dropped just now, run the backup again.",
            path=place,
        )

    def _visit(self, found: os.stat_result) -> bool:
        """Whether this directory is met for the first time."""
        identity = (found.st_dev, found.st_ino)
        if identity in self._visited:
            return False
        self._visited.add(identity)
        return True


def _is_tablespace(path: str) -> bool:
    parent, _, name = path.rpartition("/")
    return parent == _TABLESPACES and name.isdecimal()


def _tablespaces_first(entry: os.DirEntry[str]) -> tuple[bool, str]:
    return entry.name != _TABLESPACES, entry.name


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What the entry leads to; None if that is nothing."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise _unreadable(entry.path, error) from error


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to nothing, as opposed to an entry that has vanished."""
    return entry.is_symlink() and os.path.lexists(entry.path)


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
