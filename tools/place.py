"""Where the environment lies: under the temporary folder, open to all and ours alone.

The folder is world-writable, and what we run from it we may run as root. So a directory that
somebody else put there first, a symlink included, is refused, not repaired.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.pythons import Refused, run_for_servers


def environment_directory(checkout: Path, *, variant: str = "") -> Path:
    """The directory for this checkout, made if need be.

    The servers' user can enter it and execute what lies in it. Raises Refused.
    """
    for directory in possible_directories(checkout, variant=variant):
        if not directory.parent.is_dir():
            continue
        is_new = _claim(directory)
        if _programs_run_in(directory):
            return directory
        if is_new:
            directory.rmdir()
    raise Refused(
        "No temporary folder was found from which servers can run programs.\n"
        "Set TMPDIR to a folder that every user can enter and that is not mounted noexec."
    )


def possible_directories(checkout: Path, *, variant: str = "") -> list[Path]:
    """Where the environment of this checkout may lie, the preferred place first."""
    mark = hashlib.sha256(os.fsencode(checkout)).hexdigest()[:8]
    name = f"pgkeep-env-{os.geteuid()}-{mark}{variant}"
    folders = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"])
    return [Path(folder).resolve() / name for folder in folders]


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One preparation at a time; whoever waited finds the work done."""
    with open(directory / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _claim(directory: Path) -> bool:
    """Make it and return True, or see that the one which is there is ours alone."""
    try:
        directory.mkdir(mode=0o755)
    except FileExistsError:
        _check_ours(directory)
        return False
    except OSError as error:
        raise Refused(f"{directory} cannot be made: {error.strerror}.") from error
    return True


def _check_ours(directory: Path) -> None:
    found = directory.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or found.st_mode & 0o022:
        raise Refused(
            f"{directory} is not a directory of yours that only you can write to, "
            "so it is not used.\nRemove it, or set TMPDIR to another folder."
        )


def _programs_run_in(directory: Path) -> bool:
    """Whether the servers' user can go there and the file system allows execution."""
    with tempfile.NamedTemporaryFile("w", dir=directory, prefix="probe-", delete=False) as file:
        file.write("#!/bin/sh\nexit 0\n")
    probe = Path(file.name)
    try:
        probe.chmod(0o755)
        return run_for_servers([str(probe)]) is not None
    finally:
        probe.unlink()
