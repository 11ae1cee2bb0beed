"""How a server is reached, for our own sessions and for PostgreSQL's programs alike.

A program gets what libpq knows as variables, so that no password stands on a command line, where
everybody on the host can read it. Only what has no variable goes into its connection string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.errors import ConfigError
from pgkeep.postgres.connection import APPLICATION_NAME

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

# What no program of PostgreSQL needs to know of us.
_KEPT_BACK = ("PGKEEP_", "AWS_", "GOOGLE_", "AZURE_")
_NOT_THEIRS = ("dbname", "fallback_application_name")
# Of libpq's parameters without a variable some are secrets, and later versions may have more.
_SECRET_WORDS = ("password", "secret", "token", "scram_client_key", "scram_server_key")


class ServerAccess(NamedTuple):
    """``parameters`` are libpq's; what they do not say, libpq's variables in ``environ`` do."""

    parameters: Mapping[str, str]
    environ: Mapping[str, str]

    def __repr__(self) -> str:
        return f"ServerAccess({', '.join(self.parameters)})"

    def connect(self, database: str | None = None) -> ServerConnection:
        """A session. Raises ``ServerError``."""
        from pgkeep.postgres.connection import connect

        named = {} if database is None else {"dbname": database}
        return connect({**self.parameters, **named})

    def environment(self) -> dict[str, str]:
        """The environment of a program that connects."""
        variables = _variables()
        kept = {
            name: value for name, value in self.environ.items() if not name.startswith(_KEPT_BACK)
        }
        given = {
            variables[name]: value for name, value in self.parameters.items() if name in variables
        }
        # Messages are read, so they must be in one language.
        return {
            "PGAPPNAME": APPLICATION_NAME,
            **kept,
            **given,
            "LC_ALL": "C",
            "PGCONNECT_TIMEOUT": given.get("PGCONNECT_TIMEOUT")
            or kept.get("PGCONNECT_TIMEOUT")
            or "10",
        }

    def conninfo(self, database: str) -> str:
        """The connection string for a program's ``-d``: the database, and what has no variable.

        Raises ``ConfigError`` for a secret that could only stand there.
        """
        from psycopg.conninfo import make_conninfo

        variables = _variables()
        rest = {
            name: value
            for name, value in self.parameters.items()
            if value and name not in variables and name not in _NOT_THEIRS
        }
        for name in rest:
            if any(word in name for word in _SECRET_WORDS):
                raise ConfigError(
                    f"{name} cannot be handed to PostgreSQL's programs without showing it to "
                    "everybody on this host.",
                    remedy="Use a key without a passphrase, or a service file (PGSERVICE).",
                )
        return make_conninfo("", **{**rest, "dbname": database})


def _variables() -> dict[str, str]:
    """libpq's parameters that have a variable, but for the database."""
    from psycopg import pq

    return {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.keyword != b"dbname"
    }
