"""A connection to the server, made so that nothing of the user's settings can surprise us.

A role's or a database's own settings (``search_path``, time-outs, encodings) must not change
what our queries mean or end a session in the middle of a backup, so they are pinned right
after connecting, with plain SET, for a pooler may refuse start-up options. TCP keepalives are
shortened from the kernel's two hours: a backup session whose server is gone must notice within
a minute or two. Whatever the user wrote in the connection string, or in libpq's own variables,
wins.

Errors of the driver end here: each becomes a ServerError that says what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, LiteralString, Self

from pgkeep.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import psycopg

    from pgkeep.postgres.facts import ServerFacts

APPLICATION_NAME = "pgkeep"
DEFAULT_CONNECT_TIMEOUT_SECONDS = 10

_DEFAULTS = {
    "fallback_application_name": APPLICATION_NAME,
    "connect_timeout": str(DEFAULT_CONNECT_TIMEOUT_SECONDS),
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_PINNED: tuple[LiteralString, ...] = (
    "SET client_encoding = 'UTF8'",
    "SET search_path = pg_catalog, pg_temp",
    "SET statement_timeout = 0",
    "SET lock_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET idle_session_timeout = 0",
    "SET datestyle = 'ISO, YMD'",
    "SET timezone = 'UTC'",
    "SET bytea_output = 'hex'",
    "SET default_transaction_read_only = off",
)


class ServerConnection:
    """One session, in autocommit. Not for use by several threads at a time."""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.raw = raw

    @property
    def version_num(self) -> int:
        """``server_version_num``, for example 180004."""
        return self.raw.info.server_version

    @property
    def major(self) -> int:
        return self.version_num // 10000

    @property
    def closed(self) -> bool:
        return self.raw.closed

    def rows(
        self, query: LiteralString, parameters: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows. Raises ServerError."""
        import psycopg

        try:
            cursor = self.raw.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            lost = self.raw.closed or self.raw.broken
            what = (
                "The connection to the PostgreSQL server was lost."
                if lost
                else "The PostgreSQL server refused a query."
            )
            raise as_server_error(error, what) from error

    def row(self, query: LiteralString, parameters: Sequence[object] = ()) -> tuple[Any, ...]:
        """The single row of a query. Raises ServerError."""
        rows = self.rows(query, parameters)
        if len(rows) != 1:
            raise ServerError(
                "The server gave an unexpected answer.",
                why=f"{query!r} returned {len(rows)} rows.",
                remedy="Check that nothing between pgkeep and the server changes queries.",
            )
        return rows[0]

    def value(self, query: LiteralString, parameters: Sequence[object] = ()) -> Any:
        """The first column of the single row of a query. Raises ServerError."""
        return self.row(query, parameters)[0]

    def server_facts(self) -> ServerFacts:
        """All that a backup records about the server. Raises ServerError."""
        from pgkeep.postgres.facts import read_facts

        return read_facts(self)

    def cut(self) -> None:
        """Let a query that another thread waits for fail; it may have minutes to go. May be called
        from any thread, and the session is only good for closing then."""
        import os
        import socket
        from contextlib import suppress

        import psycopg

        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self.raw.fileno())) as end,
        ):
            end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the session; a backup that it had started is aborted by the server."""
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(settings: Mapping[str, str] | str) -> ServerConnection:
    """Open a session from a libpq connection string or its parameters.

    What is not given comes from libpq's own variables and defaults. Raises ServerError.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    with _server_errors("The connection settings cannot be read."):
        given = (
            conninfo_to_dict(settings)
            if isinstance(settings, str)
            else {name: value for name, value in settings.items() if value}
        )
        decided = {*given, *_set_in_environment()}
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in decided}
        conninfo = make_conninfo("", **{**defaults, **given})
    with _server_errors("The PostgreSQL server cannot be reached."):
        raw = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
    connection = ServerConnection(raw)
    try:
        _pin(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _pin(connection: ServerConnection) -> None:
    for statement in _PINNED:
        connection.rows(statement)
    if connection.major >= 17:
        connection.rows("SET transaction_timeout = 0")


def _set_in_environment() -> frozenset[str]:
    """Parameters that libpq takes from its own variables (it reads them, not we)."""
    from psycopg import pq

    return frozenset(
        option.keyword.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None and option.val != option.compiled
    )


def _server_errors(what: str) -> AbstractContextManager[None]:
    from contextlib import contextmanager

    @contextmanager
    def mapping() -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise as_server_error(error, what) from error

    return mapping()


def as_server_error(error: psycopg.Error, what: str) -> ServerError:
    """A driver's error as one sentence of what, why, and what to do."""
    # The driver's own words before libpq's say nothing.
    message = error.diag.message_primary or str(error).removeprefix("connection is bad: ")
    if _is_malformed(error):
        # libpq quotes parts of a malformed connection string, which may be the password.
        message = re.sub(r'"[^"]*"', '"…"', message)
    sentences = (_sentence(message), _sentence(error.diag.message_detail or ""))
    why = " ".join(sentence for sentence in sentences if sentence)
    return ServerError(what, why=why, remedy=_remedy(error, message), sqlstate=error.sqlstate or "")


def _remedy(error: psycopg.Error, message: str) -> str:
    import psycopg

    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "Run 'pgkeep setup' to see which rights the role needs; --apply grants them."
    if _is_malformed(error):
        return "Write it as libpq does, for example 'host=/var/run/postgresql user=pgkeep'."
    if error.sqlstate is None or error.sqlstate[:2] in {"08", "28", "3D", "53", "57"}:
        return _connection_remedy(message.lower())
    return _sentence(error.diag.message_hint or "") or "Look into the server's log."


def _connection_remedy(message: str) -> str:
    if "password" in message or "pg_hba" in message or "authentication" in message:
        return "Check user and password (PGUSER, PGPASSFILE) and the server's pg_hba.conf."
    if "does not exist" in message:
        return "Check the names of database and role (PGDATABASE, PGUSER)."
    if "starting up" in message or "shutting down" in message or "recovery" in message:
        return "Wait until the server is up, then try again."
    if "too many" in message or "slots are reserved" in message:
        return "Wait until connections are free, or raise max_connections."
    if "terminat" in message or "lost" in message or "closed" in message:
        return "Look into the server's log for the reason, then try again."
    return "Check that the server runs, and host, port and socket directory (PGHOST, PGPORT)."


def _is_malformed(error: psycopg.Error) -> bool:
    """Whether the connection string could not even be read, so that no server was asked."""
    import psycopg

    return error.sqlstate is None and isinstance(error, psycopg.ProgrammingError)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."
