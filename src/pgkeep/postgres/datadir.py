"""A data directory on disk: what it is, whose it is, and whether a server runs in it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.errors import BrokenServerFile, LocalIOError, WrongDataDirectory
from pgkeep.postgres.control import (
    CONTROL_FILE_SIZE,
    CONTROL_PATH,
    ControlFile,
    parse_control_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgkeep.postgres.facts import ServerFacts

_CONTROL_ATTEMPTS = 5
_CONTROL_PAUSE_SECONDS = 0.02
_MAX_INCLUDE_DEPTH = 10  # CONF_FILE_MAX_DEPTH in src/include/utils/conffiles.h


def read_control_bytes(
    pgdata: str | os.PathLike[str], *, pause: Callable[[float], None] = time.sleep
) -> tuple[bytes, ControlFile]:
    """``global/pg_control`` as it stands on disk, and parsed.

    A CRC that does not match is usually a read in the middle of the server's write, so the
    file is read up to five times, a fiftieth of a second apart. Raises BrokenServerFile when
    none of the reads was whole, WrongDataDirectory when there is no such file, LocalIOError
    when it cannot be read.
    """
    for attempt in range(_CONTROL_ATTEMPTS):
        data = _read(pgdata, CONTROL_PATH, CONTROL_FILE_SIZE)
        try:
            return data, parse_control_file(data)
        except BrokenServerFile:
            if attempt + 1 == _CONTROL_ATTEMPTS:
                raise
        pause(_CONTROL_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def read_control(
    pgdata: str | os.PathLike[str], *, pause: Callable[[float], None] = time.sleep
) -> ControlFile:
    """``global/pg_control``, parsed; see :func:`read_control_bytes`."""
    return read_control_bytes(pgdata, pause=pause)[1]


def read_version(pgdata: str | os.PathLike[str]) -> int:
    """The major version in ``PG_VERSION``.

    Raises WrongDataDirectory or LocalIOError, and BrokenServerFile if it is not a number.
    """
    text = _read(pgdata, "PG_VERSION", 64).strip()
    if not text.isdigit():
        raise BrokenServerFile(
            f"PG_VERSION in {os.fspath(pgdata)} cannot be read.",
            why=f"It holds {text!r} instead of a major version.",
            remedy="Check that the path is a data directory of PostgreSQL 15 or later.",
        )
    return int(text)


def owner(pgdata: str | os.PathLike[str]) -> tuple[int, int]:
    """User and group that own the directory, and as whom its server runs."""
    try:
        found = Path(pgdata).stat()
    except OSError as error:
        raise _unreadable(os.fspath(pgdata), error) from error
    return found.st_uid, found.st_gid


def postmaster_running(pgdata: str | os.PathLike[str]) -> int | None:
    """The process id of a server that runs in the directory, or None.

    ``postmaster.pid`` stays behind after a crash, so the process must be alive too. As in
    ``CreateLockFile`` (``src/backend/utils/init/miscinit.c``) our own and our parent's number
    do not count: after a reboot anybody may have them. A server in another container is
    not seen.
    """
    try:
        with open(Path(pgdata, "postmaster.pid"), "rb") as file:
            first = file.readline(64).strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(os.fspath(pgdata) + "/postmaster.pid", error) from error
    # A single-user server writes its number with a minus sign.
    digits = first.removeprefix(b"-")
    if not digits.isdigit() or int(digits) in (0, os.getpid(), os.getppid()):
        return None
    return int(digits) if _is_alive(int(digits)) else None


def external_config_files(facts: ServerFacts, pgdata: str | os.PathLike[str]) -> list[str]:
    """Configuration files outside the data directory, as Debian has them, in order of reading.

    ``config_file``, ``hba_file`` and ``ident_file``, and what the first includes, as far as
    they exist; a backup must store them beside the data directory's own. ``pgdata`` is the
    directory as we see it, ``facts`` name it as the server sees it.
    """
    inside = tuple(
        os.path.realpath(directory)
        for directory in (os.fspath(pgdata), facts.data_directory)
        if directory
    )
    candidates = list(_with_includes(facts.config_file, 0)) if facts.config_file else []
    candidates += [path for path in (facts.hba_file, facts.ident_file) if path]
    found: list[str] = []
    for path in candidates:
        real = os.path.realpath(path)
        below = any(real.startswith(f"{directory}{os.sep}") for directory in inside)
        if not below and path not in found and _is_file(path):
            found.append(path)
    return found


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:
        return False


def _with_includes(path: str, depth: int) -> Iterator[str]:
    yield path
    if depth >= _MAX_INCLUDE_DEPTH:
        return
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return  # the server may read what we may not; what we cannot read we cannot store
    from pgkeep.postgres.conf import parse_includes  # not on the way of wal-push

    for include in parse_includes(text):
        target = Path(path).parent / include.path
        for name in _files_of(target) if include.kind == "include_dir" else [target]:
            yield from _with_includes(str(name), depth + 1)


def _files_of(directory: Path) -> list[Path]:
    """``GetConfFilesInDir``: names that end in .conf and do not begin with a dot, sorted."""
    try:
        files = sorted(directory.iterdir())
    except OSError:
        return []
    return [path for path in files if path.name.endswith(".conf") and path.name[0] != "."]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _read(pgdata: str | os.PathLike[str], name: str, limit: int) -> bytes:
    path = Path(pgdata, name)
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WrongDataDirectory(
            f"{os.fspath(pgdata)} is not a PostgreSQL data directory.",
            why=f"There is no {name} in it.",
            remedy="Give the directory that SHOW data_directory prints, as this machine sees it "
            "(PGKEEP_PGDATA).",
            path=path,
        ) from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(path: str, error: OSError) -> LocalIOError:
    return LocalIOError(
        f"{path} cannot be read.",
        why=f"{error.strerror}.",
        remedy="Run pgkeep as the owner of the data directory, or as root.",
        path=path,
    )
