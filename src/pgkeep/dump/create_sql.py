"""The statements that make a database again, under its name or another, from recorded facts.

In two halves: what must be there before the first object, and what comes when all are there. For a
database may be set to read only, or to a search path, and then nothing could be restored into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgkeep.postgres.quoting import quote_always, quote_text

# Settings whose value is a list of names: the elements are quoted each, and not the whole.
_LISTS = frozenset(
    {
        *("search_path", "temp_tablespaces", "session_preload_libraries"),
        *("local_preload_libraries", "shared_preload_libraries", "unix_socket_directories"),
    }
)


def creation(facts: Mapping[str, Any], *, name: str | None = None, tablespace: bool = True) -> str:
    """``CREATE DATABASE`` with encoding and locale as they were, whatever the server's are."""
    parts = [
        f"CREATE DATABASE {quote_always(name or facts['name'])} TEMPLATE = template0",
        f"OWNER = {quote_always(facts['owner'])}",
        f"ENCODING = {quote_text(facts['encoding'])}",
    ]
    provider, locale = facts["provider"], facts.get("locale")
    if provider != "libc":
        parts.append(f"LOCALE_PROVIDER = {provider}")
    parts.append(f"LC_COLLATE = {quote_text(facts['collate'])}")
    parts.append(f"LC_CTYPE = {quote_text(facts['ctype'])}")
    if provider == "icu" and locale:
        parts.append(f"ICU_LOCALE = {quote_text(locale)}")
        if facts.get("icu_rules"):
            parts.append(f"ICU_RULES = {quote_text(facts['icu_rules'])}")
    if provider == "builtin" and locale:
        parts.append(f"BUILTIN_LOCALE = {quote_text(locale)}")
    if tablespace and facts["tablespace"] != "pg_default":
        parts.append(f"TABLESPACE = {quote_always(facts['tablespace'])}")
    return "\n    ".join(parts)


def properties(
    facts: Mapping[str, Any], *, name: str | None = None, roles: frozenset[str] | None = None
) -> list[str]:
    """What else is true of the database, in statements for a session in another one.

    ``roles`` are those that there are, if settings and grants of others are to be left out.
    """
    shown = quote_always(name or facts["name"])
    found = []
    if facts.get("comment"):
        found.append(f"COMMENT ON DATABASE {shown} IS {quote_text(facts['comment'])}")
    found += _grants(shown, facts, roles)
    for row in facts["settings"]:
        role = row["role"]
        if role is None:
            target = f"ALTER DATABASE {shown}"
        elif roles is None or role in roles:
            target = f"ALTER ROLE {quote_always(role)} IN DATABASE {shown}"
        else:
            continue
        found += [f"{target} SET {_setting(text)}" for text in row["settings"]]
    if facts["connection_limit"] >= 0:
        found.append(f"ALTER DATABASE {shown} CONNECTION LIMIT {int(facts['connection_limit'])}")
    if facts["is_template"]:
        found.append(f"ALTER DATABASE {shown} IS_TEMPLATE true")
    return found


def labels(facts: Mapping[str, Any], *, name: str | None = None) -> list[str]:
    """Its security labels. A server without their provider refuses them, so they come before all
    that takes long."""
    shown = quote_always(name or facts["name"])
    return [
        f"SECURITY LABEL FOR {quote_always(row['provider'])} ON DATABASE {shown} "
        f"IS {quote_text(row['label'])}"
        for row in facts.get("security_labels", [])
    ]


def create_script(facts: Mapping[str, Any]) -> str:
    """All of it for a person with psql."""
    before, after = (
        "".join(f"{statement};\n" for statement in statements)
        for statements in ([creation(facts), *labels(facts)], properties(facts))
    )
    return (
        "-- Makes the database. Restore into it what pg_dump wrote, then run the rest.\n"
        f"{before}\n-- Afterwards:\n{after}"
    )


def _grants(shown: str, facts: Mapping[str, Any], roles: frozenset[str] | None) -> list[str]:
    """Who may do what, as a whole: defaults are taken away first."""
    grants: Sequence[Mapping[str, Any]] | None = facts["grants"]
    if grants is None:
        return []
    found = [
        f"REVOKE ALL ON DATABASE {shown} FROM PUBLIC",
        f"REVOKE ALL ON DATABASE {shown} FROM {quote_always(facts['owner'])}",
    ]
    for row in grants:
        grantee = row["grantee"]
        if grantee is not None and roles is not None and grantee not in roles:
            continue
        to = "PUBLIC" if grantee is None else quote_always(grantee)
        option = " WITH GRANT OPTION" if row["grantable"] else ""
        found.append(f"GRANT {row['privilege']} ON DATABASE {shown} TO {to}{option}")
    return found


def _setting(text: str) -> str:
    """``name = value`` of ``pg_db_role_setting``'s ``name=value``."""
    name, _, value = text.partition("=")
    shown = ".".join(quote_always(part) for part in name.split("."))
    if name.lower() in _LISTS:
        # Stored as the server will read it: names already quoted where they must be.
        elements = [quote_text(part) for part in split_names(value)]
        return f"{shown} = {', '.join(elements) or quote_text('')}"
    return f"{shown} = {quote_text(value)}"


def split_names(value: str) -> list[str]:
    """The elements of a list of names, without their quotes."""
    found, word, quoted, at = [], "", False, 0
    while at < len(value):
        letter = value[at]
        if quoted:
            if value[at : at + 2] == '""':
                word, at = word + '"', at + 1
            elif letter == '"':
                quoted = False
            else:
                word += letter
        elif letter == '"':
            quoted = True
        elif letter == ",":
            found.append(word)
            word = ""
        elif not letter.isspace():
            word += letter
        at += 1
    return [*found, word] if value.strip() else []
