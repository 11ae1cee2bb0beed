"""Restoring over a directory that stands there: what is the same already is not written again.

It must be a data directory of the very cluster that is restored, or an unfinished restore of it,
and no server may run in it. Before anything else is touched ``global/pg_control`` gets a name that
no server looks for; from then on until the end no server starts here, and the restore can be begun
again at any point. What the backup does not have is removed: a server of the past would take what
it finds of the future, WAL above all, for its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import DirectoryNotEmpty, LocalIOError, PgkeepError, RestoreError
from pgkeep.postgres.control import CONTROL_PATH, parse_control_file
from pgkeep.postgres.datadir import postmaster_running, read_control
from pgkeep.postgres.exclusions import WAL_DIRECTORY
from pgkeep.restore.destination import UNFINISHED_CONTROL, sync_directory
from pgkeep.restore.syncing import unwritable
from pgkeep.restore.unfinished import UNFINISHED_MARK, check_idle, read_mark, unmark

_TABLESPACES = "pg_tblspc"


class Expected(NamedTuple):
    """What the directory shall hold: paths below it, with slashes.

    ``links`` are the tablespaces: the link's path, and where it leads. Within those only
    ``directories`` are looked at, for others may share the place.
    """

    files: Collection[str]
    directories: Collection[str]
    links: Mapping[str, Path]


def holds_something(into: Path) -> bool:
    """Whether there is a directory with anything in it."""
    try:
        return any(into.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unwritable(into, error) from error


def check_reusable(into: Path, system_identifier: int) -> None:
    """Raise unless this is a directory of that cluster in which no server runs.

    ``DirectoryNotEmpty`` for anything else than such a directory, ``RestoreError`` while a server
    runs in it, ``LocalIOError`` when it cannot be looked into.
    """
    _check_stopped(into)
    check_idle(into)
    found = _system_of(into)
    if found == system_identifier or _just_begun(into):
        return
    why = "It is neither a data directory nor an unfinished restore."
    if found is not None:
        why = f"It belongs to system {found}, and the backup to system {system_identifier}."
    raise DirectoryNotEmpty(
        f"{into} is not a directory that --delta may change, and was left as it is.",
        why=why,
        remedy="Name the data directory of this cluster, or restore into a new one.",
        path=into,
    )


def existing_tablespaces(into: Path) -> dict[int, Path]:
    """Where the links in ``pg_tblspc`` lead, by OID."""
    found = {}
    try:
        for entry in (into / _TABLESPACES).iterdir():
            if entry.name.isdecimal() and entry.is_symlink() and entry.is_dir():
                found[int(entry.name)] = Path(
                    os.path.normpath(into / _TABLESPACES / entry.readlink())
                )
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise unwritable(into / _TABLESPACES, error) from error
    return found


def make_unusable(into: Path) -> None:
    """After this no server starts from the directory, and it is known again as what it was.

    Some time has passed since anybody looked whether one runs. A server says that it runs before
    it reads ``pg_control``; so whoever is not there when that has another name does not come.
    Raises ``RestoreError`` when one is there; then all is as it was.
    """
    control, hidden = into / CONTROL_PATH, into / UNFINISHED_CONTROL
    try:
        _check_stopped(into)
        control.replace(hidden)
        try:
            _check_stopped(into)
        except BaseException:
            hidden.replace(control)
            raise
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(control, error) from error
    except RestoreError:
        unmark(into)
        raise
    sync_directory(control.parent)


def clear(into: Path, expected: Expected) -> list[str]:
    """Remove all that is not expected, or is of another kind than a plain file or directory.

    A ``pg_wal`` that is a link to another disk stays one. Returns where tablespaces lie that were
    linked here and are not in the backup: their files are left. Raises ``LocalIOError``.
    """
    left: list[str] = []

    def walk(path: str, place: Path) -> None:
        with os.scandir(place) as entries:
            for entry in list(entries):
                look(f"{path}/{entry.name}" if path else entry.name, entry)

    def look(path: str, entry: os.DirEntry[str]) -> None:
        if path in expected.links:
            if entry.is_symlink() and Path(entry.path).resolve() == expected.links[path].resolve():
                look_into_tablespace(path, Path(entry.path))
            else:
                remove(entry)
        elif path in expected.directories and _is_folder(path, entry):
            walk(path, Path(entry.path))
        elif not (path in expected.files and _is_plain(entry)):
            if path.startswith(f"{_TABLESPACES}/") and entry.is_symlink():
                left.append(str(Path(entry.path).readlink()))
            remove(entry)

    def look_into_tablespace(path: str, place: Path) -> None:
        with os.scandir(place) as entries:
            for entry in list(entries):
                below = f"{path}/{entry.name}"
                if below in expected.directories:
                    look(below, entry)

    def remove(entry: os.DirEntry[str]) -> None:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108

    try:
        walk("", into)
    except OSError as error:
        raise unwritable(error.filename or into, error) from error
    return left


def _check_stopped(into: Path) -> None:
    running = postmaster_running(into)
    if running is not None:
        raise RestoreError(
            f"A server runs in {into} (process {running}), and nothing was changed.",
            remedy="Stop it first. If that is another program with the number of a server that "
            f"crashed, remove {into}/postmaster.pid.",
        )


def _is_folder(path: str, entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=path == WAL_DIRECTORY)


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """A file of one name only: what another name shows must not change with it."""
    return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_nlink == 1


def _just_begun(into: Path) -> bool:
    """Whether there is nothing but a mark that was not written to its end."""
    return os.listdir(into) == [UNFINISHED_MARK]  # noqa: PTH208


def _system_of(into: Path) -> int | None:
    """The system identifier that the directory is known by; None if it has none."""
    try:
        return read_control(into).system_identifier
    except LocalIOError:
        raise
    except PgkeepError:
        pass
    try:
        return parse_control_file((into / UNFINISHED_CONTROL).read_bytes()).system_identifier
    except (OSError, PgkeepError):
        pass
    mark = read_mark(into)
    return None if mark is None else mark.system_identifier
