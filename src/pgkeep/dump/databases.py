"""The databases of a server: which are dumped, and everything by which each can be made again.

What pg_dump says of a database itself (``CREATE DATABASE``, ``ALTER DATABASE … SET``) is only in
archives, comes only back under the same name, and in a plain dump not at all. So it is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pgkeep.dump.options import DumpOptions
from pgkeep.dump.patterns import fitting
from pgkeep.errors import DumpError
from pgkeep.repository.dump_record import Missing

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_INVALID = -2  # left by a DROP DATABASE that was interrupted


class Chosen(NamedTuple):
    """The facts of the databases to be dumped; the names that were left out as asked; and what
    should be dumped and cannot be connected to."""

    databases: list[dict[str, Any]]
    skipped: list[str]
    missing: list[Missing]


def choose_databases(connection: ServerConnection, options: DumpOptions) -> Chosen:
    """By the options' patterns. Raises ``DumpError`` when a name or pattern fits nothing, or
    nothing is left."""
    found = read_databases(connection)
    names = [one["name"] for one in found]
    for pattern in options.include:
        if not fitting(names, pattern):
            raise DumpError(
                f"No database is called {pattern!r}.",
                why=f"There are: {', '.join(names)}.",
                remedy="Correct the name; patterns are the shell's: orders, or shop_*.",
            )
    included = {name for pattern in options.include for name in fitting(names, pattern)}
    excluded = {name for pattern in options.exclude for name in fitting(names, pattern)}
    wanted, skipped, missing = [], [], []
    for one in found:
        name = one["name"]
        if name in excluded or not _is_wanted(one, options, included):
            skipped.append(name)
        elif one["connection_limit"] == _INVALID:
            missing.append(
                Missing(name, "the database", "its DROP DATABASE was interrupted: drop it again")
            )
        elif not one["allows_connections"]:
            missing.append(Missing(name, "the database", "it allows no connections"))
        elif not one.pop("may_connect"):
            missing.append(Missing(name, "the database", f"{_role(connection)} may not connect"))
        else:
            wanted.append(one)
    for one in wanted:
        one.pop("may_connect", None)
    if not wanted:
        raise DumpError(
            "There is no database to dump.",
            why=f"There are: {', '.join(names)}."
            + "".join(f" {m.database}: {m.why}." for m in missing),
            remedy="Change what is included and excluded.",
        )
    return Chosen(wanted, skipped, missing)


def read_databases(connection: ServerConnection) -> list[dict[str, Any]]:
    """The facts of each database, by name. Raises ``ServerError``."""
    rows = connection.rows(
        "SELECT d.oid::int8, to_jsonb(d), pg_get_userbyid(d.datdba)::text, "
        "pg_encoding_to_char(d.encoding)::text, t.spcname::text, "
        "shobj_description(d.oid, 'pg_database'), "
        "has_database_privilege(d.oid, 'CONNECT'), "
        "CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END, "
        "pg_database_collation_actual_version(d.oid), "
        "ARRAY(SELECT jsonb_build_object('grantee', CASE a.grantee WHEN 0 THEN NULL "
        "ELSE pg_get_userbyid(a.grantee)::text END, 'privilege', a.privilege_type, "
        "'grantable', a.is_grantable) FROM aclexplode(d.datacl) a), d.datacl IS NOT NULL, "
        "ARRAY(SELECT jsonb_build_object('role', r.rolname::text, 'settings', s.setconfig) "
        "FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole "
        "WHERE s.setdatabase = d.oid AND (s.setrole = 0 OR r.oid IS NOT NULL) "
        "ORDER BY r.rolname NULLS FIRST), "
        "ARRAY(SELECT jsonb_build_object('provider', l.provider, 'label', l.label) "
        "FROM pg_shseclabel l WHERE l.classoid = 'pg_database'::regclass AND l.objoid = d.oid "
        "ORDER BY l.provider) "
        "FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace ORDER BY d.datname"
    )
    return [_facts(*row) for row in rows]


def _facts(
    oid: int,
    columns: dict[str, Any],
    owner: str,
    encoding: str,
    tablespace: str,
    comment: str | None,
    may_connect: bool,
    size: int | None,
    actual_version: str | None,
    grants: Sequence[dict[str, Any]],
    has_acl: bool,
    settings: Sequence[dict[str, Any]],
    labels: Sequence[dict[str, str]],
) -> dict[str, Any]:
    provider = str(columns.get("datlocprovider", "c"))
    return {
        "oid": oid,
        "name": columns["datname"],
        "owner": owner,
        "encoding": encoding,
        "provider": _PROVIDERS.get(provider, provider),
        "collate": columns["datcollate"],
        "ctype": columns["datctype"],
        # The column was renamed in PostgreSQL 17.
        "locale": columns.get("datlocale") or columns.get("daticulocale"),
        "icu_rules": columns.get("daticurules"),
        "collation_version": columns.get("datcollversion"),
        "actual_collation_version": actual_version,
        "tablespace": tablespace,
        "connection_limit": columns["datconnlimit"],
        "allows_connections": columns["datallowconn"],
        "is_template": columns["datistemplate"],
        "comment": comment,
        "grants": list(grants) if has_acl else None,
        "settings": list(settings),
        "security_labels": list(labels),
        "size_bytes": size,
        "may_connect": may_connect,
    }


def _is_wanted(one: dict[str, Any], options: DumpOptions, included: set[str]) -> bool:
    name = one["name"]
    if options.include:
        # Its plain name asks for a template, too.
        if name in options.include:
            return True
        if name not in included:
            return False
    if one["is_template"]:
        # Nobody can connect to template0, nor is there anything in it.
        return options.with_templates and one["allows_connections"]
    return True


def _role(connection: ServerConnection) -> str:
    return str(connection.value("SELECT current_user::text"))
