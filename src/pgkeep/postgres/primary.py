"""The primary of a standby that is backed up, for what a standby cannot do: end a WAL segment.

A segment is archived when it is full, by whichever server archives. A standby writes no WAL, so the
segment in which its backup ends would be archived when the primary happens to have filled it, or
at its ``archive_timeout``; on a quiet primary that may be never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pgkeep.errors import ServerError
from pgkeep.postgres.lsn import Lsn, Timeline
from pgkeep.postgres.wal_name import previous_segment_number, segment_number

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

SWITCH_FUNCTION = "pg_catalog.pg_switch_wal()"


class Primary:
    """A session with the primary. Use it in a ``with``."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    @property
    def timeline(self) -> Timeline:
        """The timeline that it writes. Raises ServerError."""
        name = self.connection.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        return Timeline(int(name[:8], 16))

    def archives(self) -> bool | None:
        """Whether it calls an archive command or library; None if our role may not see that."""
        rows = self.connection.rows(
            "SELECT name, setting FROM pg_settings "
            "WHERE name IN ('archive_mode', 'archive_command', 'archive_library')"
        )
        found = dict(rows)
        if found.get("archive_mode") == "off":
            return False
        if "archive_command" not in found:
            return None
        return bool(found["archive_command"] or found.get("archive_library"))

    def finish_segment(self, lsn: int, segment_size: int) -> None:
        """See to it that the segment with the byte before ``lsn`` is full. Raises ServerError."""
        written = Lsn.parse(self.connection.value("SELECT pg_current_wal_insert_lsn()::text"))
        if previous_segment_number(lsn, segment_size) >= segment_number(written, segment_size):
            self.connection.value("SELECT pg_switch_wal()")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def connect_primary(conninfo: str, standby: ServerConnection, system_identifier: int) -> Primary:
    """Open a session as the connection string says, and make sure that it is the primary of this
    standby, and that we may do there what we have to.

    Database and role are those of the session with the standby, unless the string names others.
    Raises ServerError.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    from pgkeep.postgres.connection import as_server_error, connect

    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except ProgrammingError as error:
        raise as_server_error(error, "PGKEEP_PRIMARY cannot be read.") from error
    if "service" not in parameters:
        parameters.setdefault("dbname", standby.raw.info.dbname)
        parameters.setdefault("user", standby.raw.info.user)
    try:
        primary = Primary(connect(parameters))
    except ServerError as error:
        error.what = f"The primary cannot be reached. {error.what}"
        error.remedy = (
            "Check PGKEEP_PRIMARY: it has to lead to the server that accepts writes now, for "
            "example 'host=db1,db2 target_session_attrs=read-write'."
        )
        raise
    try:
        _check(primary.connection, system_identifier)
    except BaseException:
        primary.connection.close()
        raise
    return primary


def _check(connection: ServerConnection, system_identifier: int) -> None:
    info = connection.raw.info
    where = f"the server at {info.host}:{info.port}"
    in_recovery, system, may_switch = connection.row(
        "SELECT pg_is_in_recovery(), system_identifier, "
        "has_function_privilege(%s, 'EXECUTE') FROM pg_control_system()",
        (SWITCH_FUNCTION,),
    )
    if system & 0xFFFFFFFFFFFFFFFF != system_identifier:
        raise ServerError(
            f"PGKEEP_PRIMARY leads to {where}, which is not the primary of this standby.",
            why=f"It is another cluster, system {system & 0xFFFFFFFFFFFFFFFF} instead of "
            f"{system_identifier}.",
            remedy="Let it name the server that this standby follows.",
        )
    if in_recovery:
        raise ServerError(
            f"PGKEEP_PRIMARY leads to {where}, which is a standby, too.",
            why="Only the primary can end a WAL segment. Of a cascade, the first server is meant.",
            remedy="Name all servers that may be it, and let libpq choose: "
            "'host=db1,db2 target_session_attrs=read-write'.",
        )
    if not may_switch:
        raise ServerError(
            f"The role {info.user} may not end a WAL segment of {where}.",
            why="The backup of a standby ends in a segment that only the primary can finish.",
            remedy=f"Run there, in the database {info.dbname}: "
            f'GRANT EXECUTE ON FUNCTION {SWITCH_FUNCTION} TO "{info.user}"',
        )
