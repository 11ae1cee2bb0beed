"""Standbys made as most people make them: with ``pg_basebackup -R``, streaming from a server.

All that is done to a running one goes through psycopg, which also works while this process acts as
another user for a backup.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.factory import ServerFactory
from tests.servers import PgServer, new_directory


def make_standby(
    factory: ServerFactory, source: PgServer, *, conf: Mapping[str, str | int] | None = None
) -> PgServer:
    """A running standby of ``source``, which may be one, too; it has replayed what that had."""
    pgdata = new_directory("standby") / "data"
    source.run("pg_basebackup", "-D", pgdata, "-c", "fast", "-X", "stream", "-R", "--no-sync")
    standby = factory.adopt(pgdata)
    standby.configure({"wal_retrieve_retry_interval": "100ms", **(conf or {})})
    return standby.start()


def execute(server: PgServer, sql: str) -> Any:
    """Run one statement; the first column of its first row, if it has one."""
    with server.connect() as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def promote(standby: PgServer) -> None:
    """Promote it, and wait until it accepts writes."""
    execute(standby, "SELECT pg_promote()")
    standby.wait_recovery_end()


def caught_up(standby: PgServer, primary: PgServer) -> None:
    """Wait until it has replayed what the primary has written by now."""
    # A record of our own: what precedes it may end in the padding of a segment.
    position = execute(primary, "SELECT pg_logical_emit_message(true, 'test', 'x')::text")
    standby.wait_for(
        f"SELECT pg_last_wal_replay_lsn() >= '{position}'", what=f"it has replayed {position}"
    )


def follow(standby: PgServer, source: PgServer) -> None:
    """Let it stream from another server from now on."""
    execute(standby, f"ALTER SYSTEM SET primary_conninfo = '{source.conninfo}'")
    standby.reload()
