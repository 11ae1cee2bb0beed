"""The table of contents of an archive, as ``pg_restore --list --verbose`` prints it.

``pg_restore --table`` leaves out indexes, constraints, triggers and the sequences that columns
take their defaults from, and knows no schema beside a name. So we choose entries ourselves: the
tables, and by the dependencies that the list tells everything that hangs on them. A foreign key to
a table that is not restored is left out, and named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

_ENTRY = re.compile(r"(\d+); (\d+) (\d+) (.+)")
_DEPENDS = re.compile(r";\s+depends on: ([\d ]+)")
# Longest first, since one type's name begins as another's does.
_TYPES = (
    *("MATERIALIZED VIEW DATA", "SEQUENCE OWNED BY", "FK CONSTRAINT", "CHECK CONSTRAINT"),
    *("MATERIALIZED VIEW", "TABLE ATTACH", "INDEX ATTACH", "ROW SECURITY", "STATISTICS DATA"),
    *("TABLE DATA", "SEQUENCE SET", "FOREIGN TABLE", "EVENT TRIGGER", "PUBLICATION TABLE"),
    *("DEFAULT ACL", "STATISTICS", "CONSTRAINT", "SEQUENCE", "COMMENT", "TRIGGER", "DEFAULT"),
    *("POLICY", "TABLE", "INDEX", "RULE", "VIEW", "ACL", "SECURITY LABEL"),
)
_HANGS_ON = frozenset(
    {
        *("TABLE DATA", "INDEX", "CONSTRAINT", "CHECK CONSTRAINT", "DEFAULT", "TRIGGER", "RULE"),
        *("POLICY", "ROW SECURITY", "STATISTICS", "ACL", "COMMENT", "SEQUENCE OWNED BY"),
        *("SEQUENCE SET", "FK CONSTRAINT", "TABLE ATTACH", "INDEX ATTACH", "STATISTICS DATA"),
        # Of a serial or identity column: the sequence hangs on its table.
        *("SECURITY LABEL", "SEQUENCE"),
    }
)


class Entry(NamedTuple):
    """A line of the list. ``schema`` is empty for what has none."""

    id: int
    type: str
    schema: str
    name: str
    depends: frozenset[int]
    line: str


class Selection(NamedTuple):
    """The lines of a list for ``pg_restore --use-list``; the tables in it as (schema, name); and
    what was left out although it hangs on them."""

    lines: list[str]
    tables: list[tuple[str, str]]
    left_out: list[str]


def parse_list(text: str) -> list[Entry]:
    """The entries in their order."""
    found: list[Entry] = []
    for line in text.splitlines():
        if match := _ENTRY.match(line):
            kind = next((one for one in _TYPES if match[4].startswith(f"{one} ")), "")
            rest = match[4][len(kind) :].strip() if kind else match[4]
            schema, _, name = rest.partition(" ")
            # The owner stands last; only a name without spaces can be told from it for sure.
            name = name.rpartition(" ")[0] or name
            schema = "" if schema == "-" else schema
            found.append(Entry(int(match[1]), kind, schema, name, frozenset(), line))
        elif found and (match := _DEPENDS.match(line)):
            ids = frozenset(map(int, match[1].split()))
            found[-1] = found[-1]._replace(depends=ids)
    return found


def select_tables(entries: Sequence[Entry], patterns: Collection[str]) -> Selection:
    """The tables that fit one of the patterns (``table``, or ``schema.table``; the shell's), with
    what hangs on them."""
    kinds = ("TABLE", "FOREIGN TABLE", "MATERIALIZED VIEW", "VIEW")
    whole = [one for one in entries if one.type in kinds]
    chosen = {one.id for pattern in patterns for one in _fitting(whole, pattern)}
    tables = {one.id for one in entries if one.type == "TABLE"}
    left_out: list[str] = []
    keys = {
        one.id: next(iter(one.depends & tables), 0)
        for one in entries
        if "CONSTRAINT" in one.type or one.type == "INDEX"
    }
    grown = True
    while grown:
        grown = False
        for one in entries:
            if one.id in chosen or one.type not in _HANGS_ON or not one.depends & chosen:
                continue
            others = {keys.get(dependency, dependency) for dependency in one.depends}
            strangers = (others & tables) - chosen
            if strangers and one.type in ("FK CONSTRAINT", "TABLE ATTACH", "INDEX ATTACH"):
                shown = f"{one.type.lower()} {one.schema}.{one.name}"
                if shown not in left_out:
                    left_out.append(shown)
                continue
            chosen.add(one.id)
            grown = True
    return Selection(
        [one.line for one in entries if one.id in chosen],
        [(one.schema, one.name) for one in entries if one.id in chosen and one.type == "TABLE"],
        left_out,
    )


def _fitting(entries: Sequence[Entry], pattern: str) -> list[Entry]:
    """Those that are called so, else those that fit."""
    called = [one for one in entries if pattern in (one.name, f"{one.schema}.{one.name}")]
    return called or [one for one in entries if _fits(one, pattern)]


def _fits(entry: Entry, pattern: str) -> bool:
    schema, dot, name = pattern.partition(".")
    if dot and fnmatchcase(entry.schema, schema) and fnmatchcase(entry.name, name):
        return True
    return fnmatchcase(entry.name, pattern)
