"""The fewest rights a role needs to make backups.

No superuser, no replication right, no right to read any table. Two kinds suffice: membership
in ``pg_read_all_settings`` (paths and archive settings are hidden from others), and EXECUTE on
a handful of functions that the server gives to nobody by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection


class Privilege(NamedTuple):
    """A right: what it is for, the statement that gives it (``{role}`` stands for the role)."""

    name: str
    purpose: str
    grant: str


BACKUP_FUNCTIONS = {
    "pg_catalog.pg_backup_start(text, boolean)": "to begin a backup",
    "pg_catalog.pg_backup_stop(boolean)": "to end a backup",
    "pg_catalog.pg_switch_wal()": "to have the current WAL segment archived at once",
    "pg_catalog.pg_create_restore_point(text)": "to prove that archiving works",
}
SETTINGS_ROLE = "pg_read_all_settings"


def backup_privileges() -> tuple[Privilege, ...]:
    """Everything that a role for backups is given beyond LOGIN, in the order to grant it."""
    settings = Privilege(
        SETTINGS_ROLE,
        "to see where the data directory and the configuration files are",
        f"GRANT {SETTINGS_ROLE} TO {{role}}",
    )
    functions = (
        Privilege(name, purpose, f"GRANT EXECUTE ON FUNCTION {name} TO {{role}}")
        for name, purpose in BACKUP_FUNCTIONS.items()
    )
    return (settings, *functions)


def missing_privileges(connection: ServerConnection) -> tuple[Privilege, ...]:
    """Which of :func:`backup_privileges` the connected role does not have here.

    Rights on functions are per database: grant them in the one that pgkeep connects to.
    Raises ServerError.
    """
    missing = []
    for privilege in backup_privileges():
        if privilege.name == SETTINGS_ROLE:
            held = connection.value(
                "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')"
            )
        else:
            held = connection.value(
                "SELECT has_function_privilege(%s, 'EXECUTE')", (privilege.name,)
            )
        if not held:
            missing.append(privilege)
    return tuple(missing)
