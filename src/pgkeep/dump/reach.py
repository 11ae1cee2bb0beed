"""What a role with fewer rights than a superuser's cannot read of a database.

pg_dump locks every table before it reads the first, so one table that it may not read costs the
whole database. Such tables are found beforehand and left out by name. Those that were wanted are
named in the dump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from pgkeep.dump.selection import Relation, Selection, wanted_of, without_rows
from pgkeep.postgres.quoting import quote_always
from pgkeep.repository.dump_record import Missing

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

# A table whose own sequence (serial, identity) cannot be read cannot be dumped either: pg_dump
# takes such a sequence along.
_UNREADABLE = """
WITH own AS (
  SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind,
    CASE
      WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'no USAGE on its schema'
      WHEN c.relkind = 'S' AND NOT has_sequence_privilege(c.oid, 'SELECT') THEN 'no SELECT on it'
      WHEN c.relkind <> 'S' AND NOT has_table_privilege(c.oid, 'SELECT') THEN 'no SELECT on it'
      WHEN row_security_active(c.oid) THEN 'row-level security would hide rows of it'
    END AS why
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND (NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
        AND e.objid = c.oid AND e.deptype = 'e')
      -- Of an extension only the rows of such tables are dumped that it names (pg_cron's jobs).
      OR (row_security_active(c.oid)
        AND c.oid IN (SELECT unnest(extconfig) FROM pg_extension)))
)
SELECT o.oid::int8, o.schema, o.name, o.relkind = 'S', coalesce(o.why,
    'no SELECT on its sequence ' || (
      SELECT min(s.name) FROM pg_depend d JOIN own s ON s.oid = d.objid
      WHERE d.refobjid = o.oid AND d.deptype IN ('a', 'i') AND s.relkind = 'S'
        AND s.why IS NOT NULL)),
  (SELECT min(d.refobjid::int8) FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = o.oid AND o.relkind = 'S'
      AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
FROM own o
WHERE o.why IS NOT NULL OR (o.relkind <> 'S' AND EXISTS (
    SELECT FROM pg_depend d JOIN own s ON s.oid = d.objid
    WHERE d.refobjid = o.oid AND d.deptype IN ('a', 'i') AND s.relkind = 'S' AND s.why IS NOT NULL))
ORDER BY 2, 3
"""
# Of the superuser that initdb made no dependency is recorded.
_ROLES = """
SELECT DISTINCT pg_get_userbyid(refobjid)::text FROM pg_shdepend
WHERE refclassid = 'pg_authid'::regclass
  AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION SELECT pg_get_userbyid(10)::text WHERE EXISTS (
  SELECT FROM pg_class WHERE relowner = 10 AND oid >= 16384)
ORDER BY 1
"""
_NAMES: LiteralString = (
    "SELECT c.oid::int8, n.nspname::text, c.relname::text FROM pg_class c "
    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s::oid[])"
)
_HIDDEN_ROWS = "row-level security would hide rows of it"
_ALL = Selection()
_LARGE_OBJECTS = """
SELECT count(*) FILTER (WHERE NOT (pg_has_role(m.lomowner, 'USAGE') OR EXISTS (
    SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
    AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))))), count(*)
FROM pg_largeobject_metadata m
"""


class Reach(NamedTuple):
    """``options`` leave out what cannot be read; ``missing`` names it; ``facts`` are what the
    database needs of a server: ``extensions`` (name, version) and ``roles``, of those that own
    something in it or were granted something."""

    options: tuple[str, ...]
    missing: tuple[Missing, ...]
    facts: dict[str, Any]


def look_into(connection: ServerConnection, database: str, selection: Selection = _ALL) -> Reach:
    """Of a session in that database. Raises ``ServerError``."""
    extensions = connection.rows(
        "SELECT extname::text, extversion FROM pg_extension ORDER BY extname"
    )
    facts = {
        "extensions": [list(row) for row in extensions],
        "roles": [name for (name,) in connection.rows(_ROLES)],
    }
    if connection.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        return Reach((), (), facts)
    options, missing = _tables(connection, database, selection)
    unreadable, count = connection.row(_LARGE_OBJECTS)
    if unreadable and connection.value("SHOW lo_compat_privileges") != "on":
        options.append("--no-blobs")
        if selection.large_objects:
            why = f"{unreadable} of them may not be read"
            missing.append(Missing(database, f"all {count} large objects", why))
    return Reach(tuple(options), tuple(missing), facts)


def _tables(
    connection: ServerConnection, database: str, selection: Selection
) -> tuple[list[str], list[Missing]]:
    """What leaves out the tables and sequences that cannot be read, all of them, lest one of them
    ends the dump; and those of them that were wanted."""
    rows = connection.rows(_UNREADABLE)
    relations = _relations(connection, rows)
    wanted = wanted_of(connection, relations, selection, database=database)
    bare = without_rows(connection, relations, selection, database=database)
    # pg_dump takes a serial column's sequence along, whatever is said of it.
    bare -= {row[5] for row in rows}
    options, missing = [], []
    for oid, schema, name, is_sequence, why, _ in rows:
        if why == _HIDDEN_ROWS and oid in bare:
            continue  # nobody reads its rows
        pattern = f"{quote_always(schema)}.{quote_always(name)}"
        options.append(f"--exclude-table={pattern}")
        if oid in wanted:
            kind = "sequence" if is_sequence else "table"
            missing.append(Missing(database, f"{kind} {pattern}", why))
    return options, missing


def _relations(connection: ServerConnection, rows: Sequence[tuple[Any, ...]]) -> list[Relation]:
    """Those that cannot be read, and the tables that own some of them."""
    found = {row[0]: Relation(row[0], row[1], row[2], row[5]) for row in rows}
    owners = sorted({row[5] for row in rows if row[5] is not None} - set(found))
    for row in connection.rows(_NAMES, (owners,)) if owners else ():
        found[row[0]] = Relation(*row)
    return list(found.values())
