"""The mark of a restore that has not come to its end, and who works on it.

``pgkeep.unfinished`` lies in the directory from the first change to the last but one (the rename of
``pg_control``). It says whether there was nothing else when the restore began: then all that is
there is the restore's own, and the same command may go on from it without being asked twice. Where
a cluster stood, ``--delta`` says that it is meant.

As long as a restore runs it holds a lock on that file, so that a second one does not write into the
same directory. The kernel lets go of it when the process dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import RestoreError
from pgkeep.postgres.control import CONTROL_PATH
from pgkeep.restore.destination import UNFINISHED_CONTROL, check_empty, sync_directory
from pgkeep.restore.syncing import unwritable

UNFINISHED_MARK = "pgkeep.unfinished"
_LOCKED = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


class Mark(NamedTuple):
    """What a mark says; ``into_empty``: nothing but the restore's own is in the directory."""

    system_identifier: int
    into_empty: bool


def read_mark(into: Path) -> Mark | None:
    """None where there is none that can be read."""
    try:
        found = json.loads((into / UNFINISHED_MARK).read_bytes())
        return Mark(int(found["system_identifier"]), found.get("into_empty") is True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def can_go_on(into: Path, system_identifier: int) -> bool:
    """Whether all that is there is that of a restore of this cluster which was broken off."""
    if (into / CONTROL_PATH).exists():
        return False
    mark = read_mark(into)
    if mark is not None:
        return mark.into_empty and mark.system_identifier == system_identifier
    try:
        names = os.listdir(into)  # noqa: PTH208
    except OSError:
        return False
    # Killed while the mark was written; or when it was gone, and only the last rename was missing.
    return names == [UNFINISHED_MARK] or (
        UNFINISHED_MARK not in names and (into / UNFINISHED_CONTROL).exists()
    )


def check_idle(into: Path) -> None:
    """Raise ``RestoreError`` while a restore into this directory runs."""
    try:
        handle = os.open(into / UNFINISHED_MARK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        _lock(handle, into)
    finally:
        os.close(handle)


def begin(
    into: Path, system_identifier: int, own: Callable[[int], None], *, into_empty: bool
) -> int:
    """Say in the directory, durably, that a restore of this cluster is not done yet.

    Returns the open mark, locked, for as long as the restore runs. Raises ``LocalIOError``, and
    ``RestoreError`` while another restore runs there.
    """
    path = into / UNFINISHED_MARK
    content = {
        "pgkeep": 1,
        "system_identifier": str(system_identifier),
        "into_empty": into_empty,
        "meaning": "A restore into this directory has not come to its end, and no server starts "
        "from it. Run pgkeep restore again"
        + ("" if into_empty else ", with --delta")
        + ", or remove the directory.",
    }
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        _lock(handle, into)
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(content, indent=2) + "\n").encode(), 0)
        own(handle)
        os.fsync(handle)
    except OSError as error:
        os.close(handle)
        raise unwritable(path, error) from error
    except BaseException:
        os.close(handle)
        raise
    sync_directory(into)
    return handle


def check_alone(into: Path) -> None:
    """Raise ``DirectoryNotEmpty`` if there is more than our mark: another restore was made there
    since anybody looked. If that is whole, the mark is taken back."""
    if os.listdir(into) != [UNFINISHED_MARK]:  # noqa: PTH208
        if (into / CONTROL_PATH).exists():
            unmark(into)
        check_empty(into)


def unmark(into: Path) -> None:
    """The restore is done, but for the name of ``pg_control``."""
    try:
        (into / UNFINISHED_MARK).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(into / UNFINISHED_MARK, error) from error
    sync_directory(into)


def _lock(handle: int, into: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _LOCKED:
            return  # a file system without locks
        raise RestoreError(
            f"Another restore into {into} is running, and was left alone.",
            remedy="Wait for it, or stop it, and then run this one again.",
        ) from error
