"""The cluster whose data directory we stand in: who it is, and whether it may archive at all.

PostgreSQL runs both commands in its data directory and passes paths relative to it. A person who
pushes a file by hand names it by an absolute path, so the directory above ``pg_wal`` counts too.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pgkeep.errors import CopyRefused, LocalIOError, WrongDataDirectory
from pgkeep.postgres.exclusions import COPY_MARK

_CONTROL = "global/pg_control"
_PID_FILE = "postmaster.pid"
# LOCK_FILE_LINE_PM_STATUS in src/include/utils/pidfile.h, counted from 1.
_STATUS_LINE = 8


class LocalCluster(NamedTuple):
    """What pg_control says of the data directory ``pgdata`` (an absolute path)."""

    pgdata: str
    system_identifier: int
    segment_size: int


def read_cluster(pgdata: str) -> LocalCluster:
    """Read pg_control. Raises ``WrongDataDirectory``, ``BrokenServerFile``, ``LocalIOError`` and
    ``UnsupportedVersion``.
    """
    from pgkeep.postgres.datadir import read_control

    control = read_control(pgdata)
    return LocalCluster(pgdata, control.system_identifier, control.wal_segment_size)


def find_data_directory(path: str, *, configured: str | None) -> str:
    """The data directory that a WAL file's path belongs to, as an absolute path.

    ``configured`` is the user's setting, for a path that tells nothing.
    Raises ``WrongDataDirectory`` when none of the places is a data directory.
    """
    here = os.getcwd()  # noqa: PTH109 - importing pathlib costs wal-push time
    places = [here]
    if os.path.isabs(path):  # noqa: PTH117
        above, folder = os.path.split(os.path.dirname(path))  # noqa: PTH120
        places = [above, here] if folder == "pg_wal" else [here]
    if configured is not None:
        places.append(configured)
    for place in places:
        if os.path.lexists(os.path.join(place, _CONTROL)):  # noqa: PTH118
            return place
    raise WrongDataDirectory(
        f"{path} does not belong to a data directory of PostgreSQL.",
        why=f"There is no {_CONTROL} in {' or '.join(places)}.",
        remedy="Let the server call this command (it runs it in its data directory), or run it "
        "there, or set PGKEEP_PGDATA.",
    )


def refuse_copy(pgdata: str) -> None:
    """Raise ``CopyRefused`` when the directory is a restored copy of another cluster."""
    mark = os.path.join(pgdata, COPY_MARK)  # noqa: PTH118
    try:
        os.lstat(mark)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise LocalIOError(
            f"{mark} cannot be looked at.",
            why=f"{error.strerror}.",
            remedy="Run this as the owner of the data directory.",
        ) from error
    raise CopyRefused(
        f"{pgdata} is a restored copy, and a copy archives nothing.",
        why=f"The file {mark} stands there: the original may still be alive, and two servers "
        "must not write under one name.",
        remedy="If this server takes the original's place, stop the original for good, then run: "
        f"rm {mark}",
        path=mark,
    )


def is_stopping(pgdata: str) -> bool:
    """Whether the server says that it is shutting down (``postmaster.pid``, its last line)."""
    try:
        with open(os.path.join(pgdata, _PID_FILE), "rb") as file:  # noqa: PTH118
            lines = file.read(4096).split(b"\n")
    except OSError:
        return False
    return len(lines) >= _STATUS_LINE and lines[_STATUS_LINE - 1].strip() == b"stopping"


def is_recovering(pgdata: str) -> bool:
    """Whether a server runs there, as far as files tell, and takes WAL from an archive."""
    present = set(filter(lambda name: _is_there(pgdata, name), (_PID_FILE, *_SIGNALS)))
    return _PID_FILE in present and len(present) > 1


def may_be_denied(pgdata: str, name: str) -> bool:
    """Whether saying "absent" of this file does no harm, even if it is not so.

    A standby asks again for whatever it does not get. And at the very end of recovery, when the
    server has removed its signal file already, it asks for the history of the timeline that it
    leaves (``writeTimeLineHistory``) and takes the one in ``pg_wal`` instead; an error at that
    moment would leave it neither a standby nor promoted.
    """
    if _is_there(pgdata, "standby.signal"):
        return True
    ending = name.endswith(".history") and not _is_there(pgdata, "recovery.signal")
    return ending and _is_there(pgdata, f"pg_wal/{name}")


_SIGNALS = ("recovery.signal", "standby.signal")


def _is_there(pgdata: str, name: str) -> bool:
    return os.path.lexists(os.path.join(pgdata, name))  # noqa: PTH118
