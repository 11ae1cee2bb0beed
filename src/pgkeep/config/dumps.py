"""Settings of dumps: what is in one, and what is said of single databases.

A table ``[databases.NAME]`` of the file says how the database NAME is dumped, where that differs
from the rest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pgkeep.config.names import unknown
from pgkeep.errors import ConfigError

PARTS = ("globals", "passwords", "settings", "access")
"""Roles and tablespaces; the roles' passwords; settings; pg_hba and pg_ident."""
ALL_PARTS = frozenset(PARTS)
FORMATS = ("custom", "directory", "plain")
_COMPRESSION = re.compile(r"(none|gzip|lz4|zstd|\d)(:[a-z0-9=,]+)?")
# pg_dump's options that decide what is ours to decide: where it reads and writes, in which shape.
_OURS = (
    *("-f", "--file", "-F", "--format", "-j", "--jobs", "-Z", "--compress", "-d", "--dbname"),
    *("-h", "--host", "-p", "--port", "-U", "--username", "-W", "--password", "-w"),
    *("--no-password", "-C", "--create", "-c", "--clean", "-V", "--version", "-?", "--help"),
)
# pg_dump's letters that take a value.
_WITH_VALUE = "deEfFhjnNpStTUZ"


class DatabaseSettings(NamedTuple):
    """How one database is dumped; what is None or empty is as for the others. Schemas and tables
    are pg_dump's patterns."""

    format: str | None = None
    compression: str | None = None
    jobs: int | None = None
    schemas: tuple[str, ...] = ()
    exclude_schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    exclude_tables: tuple[str, ...] = ()
    exclude_data: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def over(self, general: DatabaseSettings) -> DatabaseSettings:
        """These, and where they say nothing, those of ``general``."""
        said = {name: value for name, value in self._asdict().items() if value}
        return general._replace(**said)


def parse_parts(value: object) -> frozenset[str]:
    """``all``, or some of ``PARTS``. Raises ValueError."""
    words = parse_names(value)
    if words == ("all",):
        return ALL_PARTS
    wrong = [word for word in words if word not in PARTS]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is none of {', '.join(PARTS)} (or all, or none)")
    return frozenset(words)


def parse_names(value: object) -> tuple[str, ...]:
    """A list of texts, or one text with commas; ``none`` is none of them. Raises ValueError."""
    if isinstance(value, str):
        value = [] if value.strip() == "none" else value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError("it must be a list of names")
    return tuple(name for name in (one.strip() for one in value) if name)


def parse_format(value: object) -> str:
    """Raises ValueError."""
    text = str(value).strip().lower()
    if text not in FORMATS:
        raise ValueError(f"it must be one of {', '.join(FORMATS)}")
    return text


def parse_compression(value: object) -> str:
    """As pg_dump's ``--compress``. Raises ValueError."""
    text = str(value).strip().lower()
    if not _COMPRESSION.fullmatch(text):
        raise ValueError("it must be what pg_dump's --compress takes: zstd:3, gzip:6, lz4 or none")
    return text


def parse_options(value: object) -> tuple[str, ...]:
    """Further options of pg_dump: a list, or a text as a shell splits it. Raises ValueError."""
    words = tuple(value) if isinstance(value, list | tuple) else tuple(shlex.split(str(value)))
    words = tuple(map(str, words))
    for name, _ in split_options(words):
        if name in _OURS:
            raise ValueError(f"{name} is pgkeep's to say: it has settings of its own for that")
        if name.startswith("--") and any(one.startswith(name) for one in _OURS):
            raise ValueError(f"{name} may be the beginning of an option that is pgkeep's to say")
    return words


def split_options(words: Iterable[str]) -> list[tuple[str, str | None]]:
    """pg_dump's options one by one, each with its value if it has one; what is no option has an
    empty name. Letters may stand together (``-vOn shop``), and the last of them take a value.

    Which long options take one we do not know: a word behind one that is no option may be it.
    """
    found: list[tuple[str, str | None]] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            name, given, value = word.partition("=")
            is_value = not given and bool(left) and not left[0].startswith("-")
            found.append((name, value if given else left.pop(0) if is_value else None))
        elif len(word) < 2 or word[0] != "-":
            found.append(("", word))
        else:
            for at, letter in enumerate(word[1:], start=2):
                if letter in _WITH_VALUE:
                    rest = word[at:]
                    found.append((f"-{letter}", rest or (left.pop(0) if left else None)))
                    break
                found.append((f"-{letter}", None))
    return found


def database_tables(table: object, path: str) -> dict[str, DatabaseSettings]:
    """The ``[databases.NAME]`` tables of a file. Raises ``ConfigError``."""
    if not isinstance(table, dict) or not all(isinstance(one, dict) for one in table.values()):
        raise ConfigError(
            f"[databases] in {path} must hold a table for each database.",
            remedy='Write for example: [databases.orders] format = "directory"',
        )
    return {name: _database(one, f"[databases.{name}] in {path}") for name, one in table.items()}


_PARSERS = {
    "format": parse_format,
    "compression": parse_compression,
    "options": parse_options,
}


def _database(table: Mapping[str, Any], where: str) -> DatabaseSettings:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name not in DatabaseSettings._fields:
            unknown(name, f"setting of a database in {where}", list(DatabaseSettings._fields))
        try:
            if name == "jobs":
                found[name] = _jobs(value)
            else:
                found[name] = _PARSERS.get(name, parse_names)(value)
        except ValueError as error:
            raise ConfigError(f"{name} in {where} cannot be used ({value!r}): {error}.") from error
    return DatabaseSettings(**found)


def _jobs(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("it must be a number from 1 up")
    return value
