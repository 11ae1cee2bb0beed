"""What has to hold before the first byte is copied.

The server answers over SQL and the files are read from a directory: that the two belong
together is proved, not assumed. A stale clone has the same system identifier; only its last
checkpoint tells.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgkeep.errors import ConfigError, CopyRefused, LocalIOError, WrongDataDirectory
from pgkeep.postgres.backup_session import BackupSession
from pgkeep.postgres.control import CONTROL_PATH, ControlFile
from pgkeep.postgres.datadir import read_control
from pgkeep.postgres.exclusions import COPY_MARK
from pgkeep.postgres.facts import ServerFacts
from pgkeep.postgres.settings import check_major

_MAY_HOLD_SECRETS = ("archive_command", "restore_command")
_PROOF_ATTEMPTS = 20
_PROOF_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class DataDirectory:
    """A data directory that was found to be the server's by name; the proof comes at the start."""

    path: Path
    control: ControlFile


def find_data_directory(
    facts: ServerFacts, given: str | None, *, force_version: str | None
) -> DataDirectory:
    """The directory to read. Raises ``WrongDataDirectory``, ``CopyRefused``,
    ``UnsupportedVersion``."""
    check_major(facts.major, force=force_version == str(facts.major))
    where = given or facts.data_directory
    if where is None:
        raise ConfigError(
            "The server does not tell this role where its data directory is.",
            why="The role lacks pg_read_all_settings.",
            remedy="Grant it (pgkeep setup prints the statement), or set PGKEEP_PGDATA.",
        )
    path = Path(where)
    control = read_control(path)
    if (path / COPY_MARK).exists():
        raise CopyRefused(
            f"{path} is a restored copy, and copies are not backed up under the original's name.",
            why=f"The file {COPY_MARK} stands in it.",
            remedy="To make it the original, follow the commands in that file; "
            "to back it up beside the original, remove it and give the copy a name of its own.",
        )
    if control.system_identifier != facts.system_identifier:
        raise WrongDataDirectory(
            f"{path} is not the data directory of the server that answered.",
            why=f"It is system {control.system_identifier}, the server is system "
            f"{facts.system_identifier}.",
            remedy="Check PGKEEP_PGDATA, PGHOST and PGPORT.",
        )
    return DataDirectory(path, control)


def prove_data_directory(session: BackupSession, path: Path) -> None:
    """Right after ``pg_backup_start``: the directory's pg_control is the one that the server reads.

    Raises ``WrongDataDirectory``. A checkpoint may come between the two looks, hence some tries.
    """
    for attempt in range(_PROOF_ATTEMPTS):
        if attempt:
            time.sleep(_PROOF_PAUSE_SECONDS)
        if session.control_checkpoint().matches(read_control(path)):
            return
    raise WrongDataDirectory(
        f"{path} is not the directory that the running server works in.",
        why="Its last checkpoint is not the server's: it is a clone or an old copy.",
        remedy="Set PGKEEP_PGDATA to where the server's data_directory is seen from here.",
    )


def recorded_facts(facts: ServerFacts) -> dict[str, Any]:
    """What a manifest keeps of the server's facts: nothing that may hold a password."""
    members = asdict(facts)
    for name in _MAY_HOLD_SECRETS:
        members.pop(name, None)
    members["timeline"] = int(facts.timeline)
    return members


def boot_facts(pgdata: Path, call_seconds: float) -> dict[str, Any]:
    """The kernel's boot id, and the file system's own time just before ``pg_backup_start``
    began. Raises ``LocalIOError``."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        written = (pgdata / CONTROL_PATH).stat().st_mtime_ns // 1000
    except OSError as error:
        raise LocalIOError(
            f"{pgdata / CONTROL_PATH} cannot be looked at.",
            why=f"{error.strerror}.",
            remedy="See whether the data directory was moved or unmounted.",
        ) from error
    return {
        "boot_id": boot.read_text().strip() if boot.exists() else None,
        "start_us": written - int(call_seconds * 1_000_000),
    }
