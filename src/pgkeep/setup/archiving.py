"""The server's archive settings: what they are, and what has to change so that it calls pgkeep.

Two kinds of "now" differ: what the server runs with, and what its files say it will run with after
a restart. The plan is made from the second, so that nothing is asked for twice; whether a restart
is due follows from the first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.errors import ServerError

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

ARCHIVE_TIMEOUT_SECONDS = 60
# What joins commands in a shell; in a path it would be quoted, and such a path is nobody's.
_JOINS = re.compile(r"[;&|\n]")


class ArchiveSettings(NamedTuple):
    """As configured; ``archives_now`` is whether the running server has them in force."""

    wal_level: str = "minimal"
    archive_mode: str = "off"
    archive_command: str = ""
    archive_library: str = ""
    timeout_seconds: int = 0
    archives_now: bool = False


def read_archive_settings(connection: ServerConnection | None) -> ArchiveSettings:
    """Without a connection: those of a server on which nothing was set. Raises ``ServerError``."""
    if connection is None:
        return ArchiveSettings()
    names = ["wal_level", "archive_mode", "archive_command", "archive_library", "archive_timeout"]
    rows = connection.rows("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (names,))
    running = {str(name): str(value or "") for name, value in rows}
    level, mode = running.get("wal_level", ""), running.get("archive_mode", "off")
    command = running.get("archive_command", "")
    if mode == "off" or command == "(disabled)":
        # The server shows the command as disabled while archiving is off.
        command = _configured(connection, "archive_command")
    return ArchiveSettings(
        _configured(connection, "wal_level") or level,
        _configured(connection, "archive_mode") or mode,
        command,
        running.get("archive_library", ""),
        int(running.get("archive_timeout") or 0),
        mode != "off" and level != "minimal",
    )


def archive_changes(
    now: ArchiveSettings, command: str, *, replace_foreign: bool = False
) -> dict[str, str]:
    """The settings to change. Raises ``ServerError`` when somebody else's would be overwritten."""
    wanted: dict[str, str] = {}
    if now.wal_level == "minimal":
        wanted["wal_level"] = "replica"
    if now.archive_mode == "off":
        wanted["archive_mode"] = "on"
    if now.timeout_seconds == 0:
        wanted["archive_timeout"] = str(ARCHIVE_TIMEOUT_SECONDS)
    if now.archive_library:
        if not replace_foreign:
            raise _foreign("archive_library", now.archive_library, command)
        wanted["archive_library"] = ""
    is_done = command == now.archive_command or (
        not replace_foreign and _calls_both(now.archive_command, command)
    )
    if not is_done:
        if not _is_ours(now.archive_command) and not replace_foreign:
            raise _foreign("archive_command", now.archive_command, command)
        wanted["archive_command"] = command
    return wanted


def _is_ours(command: str) -> bool:
    """Whether it is nothing but a call of pgkeep, perhaps of another one or with other settings."""
    alone = " wal-push" in command and "pgkeep" in command and not _JOINS.search(command)
    return not command.strip() or alone


def _calls_both(command: str, ours: str) -> bool:
    """Whether it calls pgkeep just as we would, and others beside it, so that each must succeed."""
    parts = [part.strip() for part in command.split("&&")]
    return ours in parts and not any(_JOINS.search(part) for part in parts if part != ours)


def _foreign(name: str, value: str, ours: str) -> ServerError:
    return ServerError(
        f"The server already archives its WAL with another {name}: {value}",
        why="Somebody set it, and may rely on what it does.",
        remedy="If pgkeep shall take its place, run pgkeep setup --replace-archive-command; "
        f"if both are needed, join them, so that each has to succeed: {_joined(value, ours)}"
        if name == "archive_command"
        else "if both are needed, set archive_command to one that calls both.",
        setting=name,
    )


def _joined(command: str, ours: str) -> str:
    """What others call in ``command``, and pgkeep as we would; not twice where it calls pgkeep."""
    parts = [part.strip() for part in command.split("&&")]
    if any(_JOINS.search(part) for part in parts):
        return f"… && {ours}"  # where a failure may be nobody's, what to keep is for them to say
    return " && ".join([*(part for part in parts if not _is_ours(part)), ours])


def _configured(connection: ServerConnection, name: str) -> str:
    """What the configuration files say last; empty when they say nothing, or not to this role."""
    if not connection.value(
        "SELECT has_function_privilege('pg_show_all_file_settings()', 'EXECUTE')"
    ):
        return ""
    rows = connection.rows(
        # Not only those without an error: what waits for a restart "could not be applied".
        "SELECT setting FROM pg_file_settings WHERE name = %s ORDER BY seqno DESC LIMIT 1",
        (name,),
    )
    return str(rows[0][0] or "") if rows else ""
