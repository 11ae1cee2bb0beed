"""What a server says of itself before a dump is restored into it, and what of that is in the
way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pgkeep.errors import ServerError
from pgkeep.repository.dump_record import Contents

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

_FIRST_NORMAL_OID = 16384
Problems = list[tuple[str, str]]


class _Load(Protocol):
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def action(self) -> str: ...


@dataclass(frozen=True)
class Target:
    """The server to restore into. ``locales`` are libc's collations that it knows, normalised."""

    major: int
    is_in_recovery: bool
    role: str
    is_superuser: bool
    may_create_roles: bool
    databases: frozenset[str]
    roles: frozenset[str]
    tablespaces: frozenset[str]
    extensions: Mapping[str, frozenset[str]]
    locales: frozenset[str]
    has_icu: bool


def look_at(connection: ServerConnection) -> Target:
    """Ask it. Raises ``ServerError``."""
    role, is_superuser, may_create = connection.row(
        "SELECT rolname::text, rolsuper, rolsuper OR rolcreaterole FROM pg_roles "
        "WHERE rolname = current_user"
    )
    extensions: dict[str, set[str]] = {}
    for name, version in connection.rows(
        "SELECT name::text, version FROM pg_available_extension_versions"
    ):
        extensions.setdefault(name, set()).add(version)
    locales = connection.rows(
        "SELECT collcollate FROM pg_collation WHERE collprovider = 'c' UNION "
        "SELECT datcollate FROM pg_database"
    )
    return Target(
        major=connection.major,
        is_in_recovery=connection.value("SELECT pg_is_in_recovery()"),
        role=role,
        is_superuser=is_superuser,
        may_create_roles=may_create,
        databases=_names(connection.rows("SELECT datname::text FROM pg_database")),
        roles=_names(connection.rows("SELECT rolname::text FROM pg_roles")),
        tablespaces=_names(connection.rows("SELECT spcname::text FROM pg_tablespace")),
        extensions={name: frozenset(versions) for name, versions in extensions.items()},
        locales=frozenset(_normal(text) for (text,) in locales if text),
        has_icu=bool(
            connection.value("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'")
        ),
    )


def is_empty(connection: ServerConnection) -> bool:
    """Whether a database holds nothing that a user made: no relation, function, type, schema or
    extension of its own, and no large object."""
    counts = connection.row(
        "SELECT (SELECT count(*) FROM pg_class WHERE oid >= %s), "
        "(SELECT count(*) FROM pg_proc WHERE oid >= %s), "
        "(SELECT count(*) FROM pg_namespace WHERE oid >= %s AND nspname !~ '^pg_'), "
        "(SELECT count(*) FROM pg_type WHERE oid >= %s), "
        "(SELECT count(*) FROM pg_extension WHERE oid >= %s), "
        "(SELECT count(*) FROM pg_largeobject_metadata)",
        (_FIRST_NORMAL_OID,) * 5,
    )
    return not any(counts)


def check_roles(roles: frozenset[str], loads: Sequence[_Load], problems: Problems) -> None:
    """That each role exists that owns something, or was granted something."""
    wanted = {
        str(role)
        for load in loads
        for role in (load.facts.get("owner"), *load.facts.get("roles", []))
    }
    lacking = sorted(wanted - roles)
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if lacking[5:] else "")
        problems.append(
            (
                f"The server lacks the roles {shown}, and the dump's globals are not restored.",
                "Create them, restore with the globals, or use --no-owner.",
            )
        )


def check_tablespaces(
    connection: ServerConnection,
    contents: Contents,
    target: Target,
    problems: Problems,
    *,
    with_globals: bool,
) -> None:
    """That each tablespace is there, or the directory in which it can be made."""
    rows = contents.facts.get("tablespaces")
    for row in rows if isinstance(rows, list) else []:
        name, location = str(row[0]), str(row[1])
        if name in target.tablespaces:
            continue
        remedy = f"Make the directory {location}, owned by the server's user; or --no-tablespaces."
        if not with_globals:
            problems.append((f"The server lacks the tablespace {name!r}.", "Use --no-tablespaces."))
        elif target.is_superuser and not _is_directory(connection, location):
            problems.append(
                (f"The server has no directory {location} for the tablespace {name!r}.", remedy)
            )


def check_database(
    facts: Mapping[str, Any],
    target: Target,
    problems: Problems,
    notes: list[str],
    *,
    is_made: bool,
    whole: bool,
) -> None:
    """That its extensions are installed, and its locale is known if it is made."""
    name = facts["name"]
    if whole:
        lacking = [one for one, _ in facts.get("extensions", []) if one not in target.extensions]
        if lacking:
            problems.append(
                (
                    f"{name} needs the extensions {', '.join(lacking)}, which the server lacks.",
                    "Install their packages on the server's host.",
                )
            )
        for extension, version in facts.get("extensions", []):
            known = target.extensions.get(extension)
            if known is not None and version not in known:
                notes.append(
                    f"{name} had the extension {extension} {version}; here it will be "
                    f"{', '.join(sorted(known)[-1:])}."
                )
    if not is_made:
        return
    provider, locale = facts["provider"], facts.get("locale")
    if provider == "icu" and not target.has_icu:
        problems.append(
            (
                f"{name} has the ICU locale {locale}, and the server was built without ICU.",
                "Use a server with ICU; or create the database yourself and restore into it.",
            )
        )
    if provider == "builtin" and target.major < (18 if locale == "PG_UNICODE_FAST" else 17):
        problems.append(
            (
                f"{name} has the builtin locale {locale}, which PostgreSQL {target.major} lacks.",
                "Restore into a newer one; or create the database yourself and restore into it.",
            )
        )
    for text in {facts["collate"], facts["ctype"]}:
        if text not in ("C", "POSIX") and _normal(text) not in target.locales:
            problems.append(
                (
                    f"{name} has the locale {text}, which the server does not seem to know.",
                    "Install the locale there (locale-gen) and run "
                    "SELECT pg_import_system_collations('pg_catalog'); or create the database "
                    "yourself and restore into it.",
                )
            )


def _is_directory(connection: ServerConnection, path: str) -> bool:
    try:
        return bool(connection.value("SELECT (pg_stat_file(%s, true)).isdir", (path,)))
    except ServerError:
        return not connection.closed


def _normal(locale: str) -> str:
    """``en_US.utf8`` and ``en_US.UTF-8`` are the same."""
    return locale.lower().replace("-", "")


def _names(rows: list[tuple[Any, ...]]) -> frozenset[str]:
    return frozenset(row[0] for row in rows)
