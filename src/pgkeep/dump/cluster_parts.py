"""What a dump keeps of the cluster as a whole: its settings and who may come in.

Settings are those that differ from their defaults, each with where it came from, in the shape of
``postgresql.conf``. pg_hba and pg_ident are the files as they stand. A role with few rights sees
some of that; what it does not see is missing, and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, LiteralString

from pgkeep.errors import ServerError
from pgkeep.postgres.conf import quote_conf_value
from pgkeep.repository.dump_record import Missing

if TYPE_CHECKING:
    from pgkeep.postgres.access import ServerAccess
    from pgkeep.postgres.connection import ServerConnection

# Of a session whose own settings were reset. What a role or database sets hides what the files say,
# which only a superuser can ask for.
_SETTINGS: LiteralString = (
    "SELECT name, reset_val, source, sourcefile, sourceline FROM pg_settings "
    "WHERE source NOT IN ('default', 'override', 'client', 'session', 'user', 'database', "
    "'database user', 'interactive', 'test') AND context <> 'internal' ORDER BY name"
)
_HIDDEN: LiteralString = (
    "SELECT count(*) FROM pg_settings WHERE source IN ('user', 'database', 'database user')"
)
_FILE_SETTINGS: LiteralString = (
    "SELECT name, setting, 'configuration file', sourcefile, sourceline FROM pg_file_settings "
    "WHERE applied ORDER BY name"
)


def read_settings(access: ServerAccess) -> tuple[str, list[Missing]]:
    """The text of ``settings.conf``, and what of it could not be read. Raises ``ServerError``."""
    with access.connect() as connection:
        connection.rows("RESET ALL")
        connection.rows("SET client_encoding = 'UTF8'")
        rows = {row[0]: row for row in connection.rows(_SETTINGS)}
        missing = []
        if not connection.value(
            "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')"
        ):
            why = "only members of pg_read_all_settings may see them"
            missing.append(
                Missing(None, "settings that are kept from others, and where the rest was set", why)
            )
        try:
            for row in connection.rows(_FILE_SETTINGS):
                rows.setdefault(row[0], row)
        except ServerError as error:
            if connection.closed:
                raise
            if not missing and connection.value(_HIDDEN):
                missing.append(
                    Missing(None, "settings that roles and databases override", _why(error))
                )
    return _conf(sorted(rows.values())), missing


def _conf(rows: Sequence[tuple[str, str | None, str, str | None, int | None]]) -> str:
    lines = []
    for name, value, source, file, line in rows:
        where = f"{source}, {file}:{line}" if file else source
        lines.append(f"# {where}\n{name} = {quote_conf_value(value or '')}\n")
    return "\n".join(lines)


def read_access_file(
    connection: ServerConnection, setting: str
) -> tuple[str | None, list[Missing]]:
    """The text of the file that ``hba_file`` or ``ident_file`` names, with those it includes."""
    name = "pg_hba.conf" if setting == "hba_file" else "pg_ident.conf"
    try:
        path = connection.value("SELECT current_setting(%s)", (setting,))
        texts = [f"# {path}\n{connection.value('SELECT pg_read_file(%s)', (path,))}"]
        if connection.major >= 16:
            view: LiteralString = (
                "SELECT DISTINCT file_name FROM pg_hba_file_rules WHERE file_name <> %s"
                if setting == "hba_file"
                else "SELECT DISTINCT file_name FROM pg_ident_file_mappings WHERE file_name <> %s"
            )
            texts += [
                f"# {included}\n{connection.value('SELECT pg_read_file(%s)', (included,))}"
                for (included,) in connection.rows(view + " ORDER BY 1", (path,))
            ]
    except ServerError as error:
        if connection.closed:
            raise
        return None, [Missing(None, name, _why(error))]
    return "\n".join(texts), []


def _why(error: ServerError) -> str:
    return (error.why or error.what).rstrip(".")
