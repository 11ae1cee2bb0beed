"""Looking at each database of a restored server: is what the catalogue says there, and sound?

Nothing is changed. Where the extension ``amcheck`` is not in a database but could be, it is made in
a transaction that is rolled back. (While recovery is paused nothing can be made.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, LiteralString, NamedTuple

from pgkeep.errors import ServerError
from pgkeep.postgres.connection import ServerConnection

Depth = Literal["quick", "full"]

_MOST = 20

_MISSING_FILES = """
SELECT oid::regclass::text FROM pg_class
WHERE relpersistence <> 't' AND pg_relation_filenode(oid) IS NOT NULL
  AND (pg_stat_file(pg_relation_filepath(oid), true)).size IS NULL
ORDER BY 1
"""
_INVALID_INDEXES = """
SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relkind = 'i' AND NOT (indisvalid AND indisready AND indislive) ORDER BY 1
"""
_DATABASE_COLLATION = """
SELECT coalesce(datcollversion <> pg_database_collation_actual_version(oid), false)
FROM pg_database WHERE datname = current_database()
"""
# Collations that indexes use and whose library is another version now, and those indexes.
_COLLATIONS = """
WITH used AS (SELECT DISTINCT unnest(indcollation) AS oid FROM pg_index),
other AS MATERIALIZED (
  SELECT k.oid, k.oid::regcollation::text AS name, k.collprovider FROM used JOIN pg_collation k
  USING (oid)
  WHERE CASE k.collprovider WHEN 'd' THEN %s
        ELSE coalesce(k.collversion <> pg_collation_actual_version(k.oid), false) END)
SELECT array_agg(DISTINCT other.name) FILTER (WHERE other.collprovider <> 'd'),
  array_agg(DISTINCT i.indexrelid::regclass::text)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
JOIN other ON other.oid = ANY (i.indcollation)
"""
# Relations of the catalogue (and their TOAST tables) have OIDs below FirstNormalObjectId.
_TABLES = """
SELECT oid::int8, oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'm', 't') AND relpersistence = 'p' AND (%s OR oid < 16384)
  AND relam = (SELECT a.oid FROM pg_am a WHERE amname = 'heap') ORDER BY pg_class.oid
"""
_INDEXES = """
SELECT c.oid::int8, c.oid::regclass::text FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid AND i.indisready
  AND (%s OR c.oid < 16384) AND c.relam = (SELECT a.oid FROM pg_am a WHERE amname = 'btree')
ORDER BY c.oid
"""
_SCHEMA = """
SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE extname = 'amcheck'
"""


class Look(NamedTuple):
    """What was found in one database.

    ``problems`` are sentences; ``relations`` is how many have their files; ``amcheck`` how many
    relations that looked into, None where it could not. ``collations`` are those whose order may be
    another now, with the database's own as ``default``, and ``reindex`` the indexes in their order.
    """

    database: str
    relations: int
    problems: tuple[str, ...] = ()
    invalid_indexes: tuple[str, ...] = ()
    collations: tuple[str, ...] = ()
    reindex: tuple[str, ...] = ()
    amcheck: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "relations": self.relations,
            "problems": list(self.problems),
            "invalid_indexes": list(self.invalid_indexes),
            "collations": list(self.collations),
            "reindex": list(self.reindex),
            "amcheck_relations": self.amcheck,
        }


def look_at(connection: ServerConnection, database: str, *, depth: Depth, paused: bool) -> Look:
    """Look at the database that the connection is in. Raises ``ServerError`` when it is lost."""
    problems: list[str] = []
    relations, invalid = 0, ()
    try:
        relations = int(connection.value("SELECT count(*) FROM pg_class"))
        missing = [name for (name,) in connection.rows(_MISSING_FILES)]
        problems += [f"the file of {name} is missing" for name in missing[:_MOST]]
        invalid = tuple(name for (name,) in connection.rows(_INVALID_INDEXES))
    except ServerError as error:
        problems.append(_said(error))
    try:
        collations, reindex = _collations(connection)
    except ServerError as error:  # a server without ICU, for example
        problems.append(f"versions of collations cannot be read: {_said(error)}")
        collations, reindex = (), ()
    checked, damaged = _amcheck(connection, depth=depth, paused=paused)
    return Look(
        database,
        relations,
        (*problems, *damaged[:_MOST]),
        invalid,
        collations,
        reindex,
        checked,
    )


def _collations(connection: ServerConnection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    own = bool(connection.value(_DATABASE_COLLATION))
    names, indexes = connection.row(_COLLATIONS, (own,))
    return (*(("default",) if own else ()), *(names or ())), tuple(indexes or ())


def _amcheck(
    connection: ServerConnection, *, depth: Depth, paused: bool
) -> tuple[int | None, list[str]]:
    """How many relations were looked into, and what was found."""
    found: list[str] = []
    with _rolled_back(connection):
        schema = _schema_of_amcheck(connection, paused=paused)
        if schema is None:
            return None, found
        everything = depth == "full"
        tables = connection.rows(_TABLES, (everything,))
        indexes = connection.rows(_INDEXES, (everything,))
        for oid, name in tables:
            query = f"SELECT msg FROM {schema}.verify_heapam(%s::oid::regclass) LIMIT 1"
            found += [f"{name}: {text}" for text in _tried(connection, query, oid)]
        for oid, name in indexes:
            query = f"SELECT NULL FROM {schema}.bt_index_check(%s::oid::regclass)"
            found += [f"{name}: {text}" for text in _tried(connection, query, oid)]
    return len(tables) + len(indexes), found


def _schema_of_amcheck(connection: ServerConnection, *, paused: bool) -> str | None:
    """Where its functions are; makes the extension if that is possible."""
    there = connection.rows(_SCHEMA)
    if not there and not paused:
        try:
            _in_savepoint(
                connection,
                "CREATE SCHEMA pgkeep_check",
                "CREATE EXTENSION amcheck SCHEMA pgkeep_check",
            )
        except ServerError:
            return None  # not installed on this machine
        there = connection.rows(_SCHEMA)
    return str(there[0][0]) if there else None


def _tried(connection: ServerConnection, query: Any, oid: int) -> list[str]:
    """What a check said, as rows or as an error."""
    connection.rows("SAVEPOINT look")
    try:
        said = [str(text) for (text,) in connection.rows(query, (oid,)) if text is not None]
    except ServerError as error:
        if connection.closed:
            raise
        connection.rows("ROLLBACK TO look")
        return [_said(error)]
    connection.rows("RELEASE look")
    return said


def _in_savepoint(connection: ServerConnection, *statements: LiteralString) -> None:
    connection.rows("SAVEPOINT look")
    try:
        for statement in statements:
            connection.rows(statement)
    except ServerError:
        connection.rows("ROLLBACK TO look")
        raise


@contextmanager
def _rolled_back(connection: ServerConnection) -> Iterator[None]:
    connection.rows("BEGIN")
    try:
        yield
    finally:
        if not connection.closed:
            connection.rows("ROLLBACK")


def _said(error: ServerError) -> str:
    return (error.why or error.what).rstrip(".")
