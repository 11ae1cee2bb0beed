"""What a cluster holds, in a form that two clusters can be compared by.

A restore is right if the same statements give the same answers, so the digest is taken
through SQL: each table's rows (a sum of 64-bit hashes, which no order of rows changes), each
object with its definition, roles, databases and tablespaces. Oids and file nodes take part:
a physical copy has the same ones.

Not compared here: the rows of unlogged tables, which recovery empties; statistics and
transaction horizons, which change by themselves; and the positions of sequences, which WAL
records up to 32 values ahead, so that a recovered one is rightly further (see
``sequence_positions``).
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from tests.servers import PgServer

Digest = dict[str, dict[str, str]]

_OURS = """n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"""

_TABLES = f"""
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND {_OURS} ORDER BY 1, 2"""

_OBJECTS = f"""
SELECT format('relation %I.%I', n.nspname, c.relname),
       concat_ws(' ', c.oid, c.relkind, c.relpersistence, c.relfilenode, c.reltablespace,
                 c.relowner, c.relacl, c.reloptions, pg_get_expr(c.relpartbound, c.oid),
                 CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid)
                                WHEN 'i' THEN pg_get_indexdef(c.oid) END,
                 (SELECT string_agg(concat_ws(' ', attnum, attname, attisdropped,
                                              format_type(atttypid, atttypmod), attnotnull,
                                              attcollation), ', ' ORDER BY attnum)
                    FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS}
UNION ALL
SELECT format('function %I.%I %s', n.nspname, p.proname, p.oid), md5(p.prosrc)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_OURS}
UNION ALL
SELECT format('constraint %I.%I %s', n.nspname, conname, c.oid), pg_get_constraintdef(c.oid)
  FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE {_OURS}
UNION ALL
SELECT format('schema %I', nspname), concat_ws(' ', oid, nspowner) FROM pg_namespace n
 WHERE {_OURS}
UNION ALL
SELECT format('extension %I', extname), extversion FROM pg_extension
UNION ALL
SELECT 'large objects', concat_ws(' ', count(*), sum(hashtextextended(o::text, 0)))
  FROM pg_largeobject o"""

_GLOBALS = """
SELECT format('role %I', rolname), md5(a::text) FROM pg_authid a
UNION ALL
SELECT format('database %I', datname),
       concat_ws(' ', oid, datdba, encoding, datcollate, dattablespace) FROM pg_database
UNION ALL
SELECT format('tablespace %I', spcname), oid::text FROM pg_tablespace"""


def cluster_digest(server: PgServer) -> Digest:
    """What each database holds, and under ``""`` what all share: object → digest."""
    with server.connect() as connection:
        digest = {"": _pairs(connection, _GLOBALS)}
        names = _pairs(connection, "SELECT datname, '' FROM pg_database WHERE datallowconn")
    for name in sorted(names):
        digest[name] = database_digest(server, name)
    return digest


def database_digest(server: PgServer, dbname: str = "postgres") -> dict[str, str]:
    """The objects and rows of one database, all seen in one snapshot."""
    with server.connect(dbname) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        digest = _pairs(connection, _OBJECTS)
        for schema, table in connection.execute(_TABLES.encode()).fetchall():
            digest[f"rows {schema}.{table}"] = _rows(connection, schema, table)
    return digest


def sequence_positions(server: PgServer, dbname: str = "postgres") -> dict[str, int]:
    """The last value of each sequence; a recovered one may be up to 32 steps ahead."""
    query = """SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, 0)
                 FROM pg_sequences"""
    with server.connect(dbname) as connection:
        return dict(connection.execute(query).fetchall())


def differences(one: Digest, other: Digest) -> list[str]:
    """Each difference as a line, for a test's message; empty if the two are equal."""
    lines = []
    for database in sorted(one.keys() | other.keys()):
        ours, theirs = one.get(database, {}), other.get(database, {})
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                lines.append(f"{database}: {name}: {ours.get(name)} != {theirs.get(name)}")
    return lines


def assert_same_digest(one: Digest, other: Digest) -> None:
    """Fail with the differences themselves, not with two long dictionaries."""
    found = differences(one, other)
    assert not found, "\n".join(found[:40])


def _rows(connection: psycopg.Connection[Any], schema: str, table: str) -> str:
    query = sql.SQL(
        "SELECT concat_ws(' ', count(*), sum(hashtextextended(t::text, 0))) FROM ONLY {} t"
    ).format(sql.Identifier(schema, table))
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def _pairs(connection: psycopg.Connection[Any], query: str) -> dict[str, str]:
    return {str(name): str(what) for name, what in connection.execute(query.encode()).fetchall()}
