"""What of this machine changes the order of text, or keeps people from connecting.

An index on text is in the order of one version of one library, glibc or ICU. Under another it is
wrong without a word: rows are not found, and uniqueness is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgkeep.restore.here import Here
from pgkeep.restore.preflight_facts import list_of, listed

_NO_ORDER = ("C", "POSIX")
_REINDEX = (
    "run in each of them, before it is used: REINDEX DATABASE name; "
    "ALTER DATABASE name REFRESH COLLATION VERSION; (restore --check says which indexes "
    "it is about)"
)


def text_misfits(server: Mapping[str, Any], here: Here) -> Iterator[str]:
    """Warnings, each with what to do."""
    databases = [one for one in list_of(server, "databases") if isinstance(one, dict)]
    for text in (
        _glibc(server, databases, here),
        _icu(databases, here),
        _locales(databases, here),
    ):
        if text:
            yield text


def _glibc(server: Mapping[str, Any], databases: list[Any], here: Here) -> str | None:
    was = server.get("libc_collation_version")
    if not isinstance(was, str) or was == here.glibc:
        return None
    names = [
        str(one.get("name"))
        for one in databases
        if one.get("provider") == "libc"
        and one.get("actual_version")
        and one.get("collate") not in _NO_ORDER
    ]
    if not names:
        return None
    now = f"glibc {here.glibc}" if here.glibc else "another C library"
    return (
        f"The backup's text is in the order of glibc {was}, and this machine has {now}: after the "
        f"restore indexes on text may be wrong in {listed(names)}. Start it where glibc is {was} "
        f"(the same image), or {_REINDEX}"
    )


def _icu(databases: list[Any], here: Here) -> str | None:
    ordered = [one for one in databases if one.get("provider") == "icu" and one.get("locale")]
    if not ordered:
        return None
    if here.icu_missing:
        names = [str(one.get("name")) for one in ordered]
        return (
            f"PostgreSQL here was built without ICU, which gives the order of text in "
            f"{listed(names)}: nobody can use them here. Start it with a PostgreSQL that has ICU."
        )
    if here.icu is None:
        return None
    versions: dict[tuple[str, str], list[str]] = {}
    for one in ordered:
        was, now = one.get("actual_version"), here.icu(str(one["locale"]))
        if isinstance(was, str) and now is not None and was != now:
            versions.setdefault((was, now), []).append(str(one.get("name")))
    if not versions:
        return None
    said = "; ".join(f"{was}, here {now} ({listed(n)})" for (was, now), n in versions.items())
    return (
        f"The order of text is that of another version of ICU: then {said}. After the restore "
        f"indexes on text may be wrong there. Start it where PostgreSQL has the same ICU, or "
        f"{_REINDEX}"
    )


def _locales(databases: list[Any], here: Here) -> str | None:
    """The server sets both of a database's locales whenever somebody connects."""
    missing: dict[str, list[str]] = {}
    for one in databases:
        for name in dict.fromkeys((one.get("collate"), one.get("ctype"))):
            if isinstance(name, str) and name not in _NO_ORDER and not here.has_locale(name):
                missing.setdefault(name, []).append(str(one.get("name")))
    if not missing:
        return None
    said = "; ".join(f"{name} (of {listed(names)})" for name, names in missing.items())
    return (
        f"This machine does not have the locale {said}: nobody can connect to these databases here "
        "until it is installed (Debian: locale-gen, or localedef)."
    )
