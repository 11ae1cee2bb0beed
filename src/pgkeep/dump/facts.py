"""What a dump records of the server: enough to tell whether another can take it.

Less than a base backup asks for, since a managed server answers less, and has nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection


@dataclass(frozen=True)
class DumpFacts:
    """``tablespaces`` are (name, location) of those beside the data directory's own two; ``roles``
    are all that the role sees."""

    version: str
    version_num: int
    system_identifier: int
    is_in_recovery: bool
    role: str
    is_superuser: bool
    tablespaces: tuple[tuple[str, str], ...]
    roles: tuple[str, ...]

    @property
    def major(self) -> int:
        return self.version_num // 10000

    def as_dict(self) -> dict[str, Any]:
        """As JSON may hold it."""
        return {
            **asdict(self),
            "system_identifier": str(self.system_identifier),
            "tablespaces": [list(pair) for pair in self.tablespaces],
            "roles": list(self.roles),
        }


def read_dump_facts(connection: ServerConnection, *, force_version: bool = False) -> DumpFacts:
    """Ask the server. Raises ``ServerError``, ``UnsupportedVersion``."""
    from pgkeep.postgres.settings import check_major

    check_major(connection.major, force=force_version)
    signed = int(connection.value("SELECT system_identifier FROM pg_control_system()"))
    role, is_superuser = connection.row(
        "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user"
    )
    return DumpFacts(
        version=connection.value("SELECT version()"),
        version_num=connection.version_num,
        system_identifier=signed & 0xFFFFFFFFFFFFFFFF,
        is_in_recovery=connection.value("SELECT pg_is_in_recovery()"),
        role=role,
        is_superuser=is_superuser,
        tablespaces=tuple(
            (name, location)
            for name, location in connection.rows(
                "SELECT spcname::text, pg_tablespace_location(oid) FROM pg_tablespace "
                "WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY spcname"
            )
        ),
        roles=tuple(
            name
            for (name,) in connection.rows(
                "SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"
            )
        ),
    )
