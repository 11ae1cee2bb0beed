"""What can go wrong with the backup of a standby and of no other server.

The server refuses to begin or to end a backup if it was promoted meanwhile, or replayed WAL that
was written with ``full_page_writes`` off: pages that were torn while they were copied would stay so
(``do_pg_backup_start`` and ``do_pg_backup_stop`` in ``xlog.c``). Both come with one SQLSTATE and a
text in the server's language, so they are told by its state and not by their words.

It does not mind that it followed its primary to another timeline. We do: what is recorded of a
backup is one timeline, and WAL from its start to its end is looked for there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.errors import ServerError

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

_NOT_IN_STATE = "55000"  # object_not_in_prerequisite_state
AGAIN = "Start the backup again; it will reuse what was already stored."


def promoted() -> ServerError:
    return ServerError(
        "The standby was promoted during the backup.",
        why="A backup that spans a promotion cannot be recovered.",
        remedy=AGAIN,
    )


def explained(error: ServerError, connection: ServerConnection) -> ServerError:
    """The refusal of a standby to begin or end a backup, or ``error`` if it was for another
    reason."""
    if error.facts.get("sqlstate") != _NOT_IN_STATE:
        return error
    try:
        if not connection.value("SELECT pg_is_in_recovery()"):
            return promoted()
    except ServerError:
        return error
    return ServerError(
        "The backup of this standby would be damaged: the primary wrote WAL with "
        "full_page_writes off.",
        why=error.why,
        remedy="Set full_page_writes = on on the primary, run CHECKPOINT there, and when the "
        "standby has replayed that, make the backup again.",
        sqlstate=_NOT_IN_STATE,
    )


def replayed_timeline(connection: ServerConnection) -> int:
    """The timeline up to which pages of a standby were written; 0 if nobody knows."""
    return int(connection.value("SELECT min_recovery_end_timeline FROM pg_control_recovery()"))


def check_timeline(connection: ServerConnection, began: int) -> None:
    """Raise ServerError if the standby went on to another timeline than the backup began on."""
    now = replayed_timeline(connection)
    if now > began:
        raise ServerError(
            f"The standby followed its primary to timeline {now} during the backup.",
            why=f"The backup began on timeline {began}, and one that spans two could be recovered "
            "on the newer only.",
            remedy=AGAIN,
        )


def check_begun(connection: ServerConnection, began: int) -> None:
    """Raise ServerError if the backup begins before a change of timelines that was replayed."""
    now = replayed_timeline(connection)
    if now > began:
        raise ServerError(
            f"The standby follows timeline {now}, and has no checkpoint of it yet to begin a "
            "backup with.",
            why=f"Its last one is of timeline {began}.",
            remedy="Run CHECKPOINT on the primary, and the backup again when the standby has "
            "replayed it.",
        )
