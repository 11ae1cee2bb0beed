"""What pg_dump was told to dump of a database, as far as it decides whether a table is missed.

The patterns are psql's, turned into regular expressions as pg_dump does it (``fe_utils/
string_utils.c``), and the server compares. Where we cannot know what else chooses (a file of
patterns), a table counts as wanted: rather is one named that nobody wanted than one kept quiet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, LiteralString, NamedTuple

from pgkeep.config.dumps import DatabaseSettings, split_options

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

_SPECIAL = frozenset("|*+?()[]{}.^$\\")
_OPTIONS = {
    **dict.fromkeys(("-n", "--schema"), "schemas"),
    **dict.fromkeys(("-N", "--exclude-schema"), "exclude_schemas"),
    **dict.fromkeys(("-t", "--table"), "tables"),
    **dict.fromkeys(("-T", "--exclude-table"), "exclude_tables"),
    "--exclude-table-data": "exclude_data",
}
_OTHER_CHOICES = frozenset({"-e", "--extension", "--filter", "--table-and-children"})
_NO_ROWS = frozenset({"-s", "--schema-only", "--no-data", "--statistics-only"})
_NO_LARGE_OBJECTS = frozenset({"-B", "--no-blobs", "--no-large-objects"})
_FITTING: LiteralString = (
    "SELECT r.oid FROM unnest(%s::int8[], %s::text[], %s::text[]) AS r (oid, schema, name) "
    'WHERE r.schema ~ %s COLLATE pg_catalog."default" AND r.name ~ %s COLLATE pg_catalog."default"'
)


class Relation(NamedTuple):
    """A table, or a sequence with the oid of the table that owns it."""

    oid: int
    schema: str
    name: str
    owner: int | None = None


class Selection(NamedTuple):
    """Patterns; ``is_open``: something else chooses as well."""

    schemas: tuple[str, ...] = ()
    exclude_schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    exclude_tables: tuple[str, ...] = ()
    exclude_data: tuple[str, ...] = ()
    is_open: bool = False
    rows: bool = True
    large_objects: bool = True

    @property
    def is_all(self) -> bool:
        """Whether no table is left out by it."""
        return not any(self[:4])


def selection_of(settings: DatabaseSettings) -> Selection:
    """What the settings say, and pg_dump's own options among them."""
    found = {name: list(getattr(settings, name)) for name in dict.fromkeys(_OPTIONS.values())}
    names = set()
    for name, value in split_options(settings.options):
        names.add(name)
        if name in _OPTIONS and value is not None:
            found[_OPTIONS[name]].append(value)
    rows = names.isdisjoint(_NO_ROWS)
    # Without -b pg_dump takes them along only where it takes everything.
    is_part = found["schemas"] or found["tables"]
    asked = not names.isdisjoint({"-b", "--blobs", "--large-objects"})
    wanted = asked or (not is_part and names.isdisjoint(_NO_LARGE_OBJECTS))
    return Selection(
        **{name: tuple(patterns) for name, patterns in found.items()},
        is_open=not names.isdisjoint(_OTHER_CHOICES),
        rows=rows,
        large_objects=rows and wanted,
    )


def wanted_of(
    connection: ServerConnection,
    relations: Sequence[Relation],
    selection: Selection,
    *,
    database: str,
) -> set[int]:
    """The oids of those that pg_dump would dump if it could read them. A sequence goes with the
    table that owns it, unless it is asked for by itself. Raises ``ServerError``.
    """
    if selection.is_all:
        return {one.oid for one in relations}
    match = _Match(connection, relations, database)
    if selection.is_open or not (selection.schemas or selection.tables):
        named, found = set[int](), {one.oid for one in relations}
    elif selection.tables:
        named = found = match.tables(selection.tables)
    else:
        named, found = set[int](), match.schemas(selection.schemas)
    if not selection.tables:
        found = found - match.schemas(selection.exclude_schemas)
    found = found - match.tables(selection.exclude_tables)
    owners = {one.oid: one.owner for one in relations if one.owner is not None}
    return {
        one.oid
        for one in relations
        if (one.oid in found if one.owner is None else owners[one.oid] in found)
        or one.oid in named & found
    }


def without_rows(
    connection: ServerConnection,
    relations: Sequence[Relation],
    selection: Selection,
    *,
    database: str,
) -> set[int]:
    """The oids of those of which only the definition is dumped. Raises ``ServerError``."""
    if not selection.rows:
        return {one.oid for one in relations}
    if not selection.exclude_data:
        return set()
    return _Match(connection, relations, database).tables(selection.exclude_data)


class _Match:
    """``relations`` are compared with patterns, in a session whose search path is pg_catalog."""

    def __init__(
        self, connection: ServerConnection, relations: Sequence[Relation], database: str
    ) -> None:
        self._connection, self._relations, self._database = connection, relations, database
        self._visible: set[int] | None = None

    def schemas(self, patterns: Sequence[str]) -> set[int]:
        """Of those whose schema fits one."""
        return {oid for one in patterns for oid in self._fitting(regexes(one)[-1], "")}

    def tables(self, patterns: Sequence[str]) -> set[int]:
        """A pattern without a schema is for what the role's search path shows."""
        found: set[int] = set()
        for pattern in patterns:
            *before, name = regexes(pattern)
            if not before:
                found |= self._fitting("", name) & self._shown()
            elif len(before) == 1 or before[:-1] == [_exactly(self._database)]:
                found |= self._fitting(before[-1], name)
        return found

    def _fitting(self, schema: str, name: str) -> set[int]:
        all_of = self._relations
        columns = ([one.oid for one in all_of], [one.schema for one in all_of])
        names = [one.name for one in all_of]
        rows = self._connection.rows(_FITTING, (*columns, names, schema, name))
        return {oid for (oid,) in rows}

    def _shown(self) -> set[int]:
        if self._visible is None:
            # As pg_dump sees it. Nothing in this query can be taken from another schema.
            oids = [one.oid for one in self._relations]
            self._connection.rows("RESET search_path")
            try:
                rows = self._connection.rows(
                    "SELECT x.oid::pg_catalog.int8, pg_catalog.pg_table_is_visible(x.oid) "
                    "FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS x (oid)",
                    (oids,),
                )
            finally:
                self._connection.rows("SET search_path = pg_catalog, pg_temp")
            self._visible = {oid for oid, is_visible in rows if is_visible}
        return self._visible


def regexes(pattern: str) -> list[str]:
    """The regular expressions for a pattern's parts, of which the last is the name's."""
    parts, quoted, at = [""], False, 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == '"':
            if quoted and pattern[at + 1 : at + 2] == '"':
                parts[-1] += '"'
                at += 1
            else:
                quoted = not quoted
        elif quoted:
            parts[-1] += f"\\{letter}" if letter in _SPECIAL else letter
        elif letter == ".":
            parts.append("")
        elif letter in "*?$":
            parts[-1] += {"*": ".*", "?": ".", "$": "\\$"}[letter]
        elif pattern.startswith("[]", at):
            parts[-1] += "\\["  # as in int4[]
        else:
            parts[-1] += letter.lower() if letter.isascii() else letter
        at += 1
    return [f"^({part})$" for part in parts]


def _exactly(name: str) -> str:
    return regexes('"' + name.replace('"', '""') + '"')[0]
