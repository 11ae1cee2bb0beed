"""What makes a restored directory a standby, and not the end of a recovery.

A standby follows for ever: it asks the archive and its primary in turn, and again after whatever
failure. So its settings have no target, and its restore command never says anything stronger than
"not now" (a code above 125 would end the server, ``RestoreArchivedFile`` in ``xlogarchive.c``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgkeep.postgres.settings import RECOVERY_TARGET_SETTINGS

# What a slot may be called (``ReplicationSlotValidateName`` in ``slot.c``).
_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")


@dataclass(frozen=True)
class Standby:
    """Whom a standby streams from.

    ``primary`` is a connection string, empty for one that lives from the archive alone. ``slot`` is
    the physical replication slot that the primary keeps for it, or empty. Raises ValueError for
    what PostgreSQL would not take, and for a password, which has no place in a command line.
    """

    primary: str = ""
    slot: str = ""

    def __post_init__(self) -> None:
        if self.primary:
            _check_conninfo(self.primary)
        if self.slot and not _SLOT_NAME.fullmatch(self.slot):
            raise ValueError(
                f"{self.slot!r} cannot be the name of a slot: lower case letters, digits and _"
            )
        if self.slot and not self.primary:
            raise ValueError("a slot is of no use without a primary to stream from")


def standby_settings(
    standby: Standby,
    timeline: int | None,
    *,
    restore_command: str,
    recovery_end_command: str = "",
) -> list[tuple[str, str]]:
    """Everything that steers a standby, in the order in which it must be written.

    Without a ``timeline`` it follows the newest one, so that it goes on behind a new primary.
    """
    return [
        ("restore_command", restore_command),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", recovery_end_command),
        *((name, "") for name in RECOVERY_TARGET_SETTINGS),
        ("recovery_target_inclusive", "on"),
        ("recovery_target_timeline", "latest" if timeline is None else str(int(timeline))),
        ("primary_conninfo", standby.primary),
        ("primary_slot_name", standby.slot),
        ("hot_standby", "on"),
    ]


def _check_conninfo(text: str) -> None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(text)
    except ProgrammingError as error:
        raise ValueError(f"{text!r} is not a connection string: {str(error).strip()}") from error
    if "password" in given:
        raise ValueError(
            "a password does not belong on a command line; let the connection string name a "
            "passfile=, or a service= of the server's user"
        )
