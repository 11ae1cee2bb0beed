"""What a manifest's body must be before anything in it is believed (format, section 7).

The body is a database that came from a store. SQLite itself is made for malformed files; what it
cannot know is what *we* may rely on: that ``files`` is a table and no view or virtual table, that a
size is a number, that a path stays where it should. All of it is checked once, in SQL, so that
200,000 files cost a fraction of a second and whoever reads rows can read on without doubt.
"""

from __future__ import annotations

import os
import re
import sqlite3

from pgkeep.seal.envelope import damaged

_TABLES = {
    "facts": {"name": "text", "value": "text"},
    "packs": {
        "id": "integer",
        "attempt": "blob",
        "number": "integer",
        "size_bytes": "integer",
        "blake3": "blob",
        "object_id": "blob",
        "data_key": "blob",
        "metadata_key": "blob",
    },
    "files": {
        "path": "text",
        "area": "integer",
        "size_bytes": "integer",
        "mode": "integer",
        "mtime_us": "integer",
        "ctime_us": "integer",
        "inode": "integer",
        "map_pack": "integer",
        "map_frame": "integer",
        "map_offset": "integer",
        "map_stored": "integer",
        "map_slot": "integer",
        "failed_pages": "integer",
    },
    "directories": {"path": "text", "mode": "integer"},
    "links": {"path": "text", "target": "text"},
    "tablespaces": {"oid": "integer", "name": "text", "location": "text"},
}
_RULES = {
    "packs": "length(attempt) = 16 AND length(blake3) = 32 AND length(object_id) = 16 "
    "AND number BETWEEN 1 AND 99999999 AND size_bytes BETWEEN 104 AND 0xFFFFFFFF "
    "AND length(data_key) <= 0xFFFF AND length(metadata_key) <= 0xFFFF",
    "files": "area IN (0, 1) AND size_bytes >= 0 AND mode BETWEEN 0 AND 4095 "
    "AND map_pack IN (SELECT id FROM packs) AND map_frame BETWEEN 0 AND 0xFFFFFFFF "
    "AND map_offset BETWEEN 0 AND 0xFFFFFFFF AND map_stored BETWEEN 0 AND 0x7FFFFFFF "
    "AND map_slot BETWEEN 0 AND 0xFFFFFFFF AND failed_pages BETWEEN 0 AND 0xFFFFFFFF",
    "directories": "mode BETWEEN 0 AND 4095",
    "tablespaces": "oid BETWEEN 1 AND 0xFFFFFFFF",
}
# An empty part, "." or "..", at the start, between two slashes or at the end; or a zero byte.
_WRONG_PATH = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|\0")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def check_body(database: sqlite3.Connection, name: str) -> None:
    """Raise ``DamagedObject`` (or ``sqlite3.Error``) unless all six tables are what they should
    be."""
    # Functions with side effects are not run from a schema, and cells that lie are found.
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
        database.execute(f"PRAGMA {setting}")
    strange = database.execute(
        "SELECT name FROM sqlite_schema WHERE type NOT IN ('table', 'index') "
        "OR (type = 'table' AND coalesce(rootpage, 0) = 0) LIMIT 1"  # virtual tables have none
    ).fetchone()
    if strange is not None:
        raise damaged(name, f"its body holds {strange[0]!r}, which is no plain table")
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(name, f"its body is damaged ({found})")
    for table, columns in _TABLES.items():
        wrong = [f"typeof({column}) <> '{kind}'" for column, kind in columns.items()]
        if table in _RULES:
            wrong.append(f"NOT ({_RULES[table]})")
        query = f"SELECT 1 FROM {table} WHERE {' OR '.join(wrong)} LIMIT 1"
        if database.execute(query).fetchone() is not None:
            raise damaged(name, f"its table {table} holds impossible values")


def check_path(path: str, name: str) -> str:
    """Return a relative path that stays below its directory; raise ``DamagedObject`` else."""
    if _WRONG_PATH.search(path):
        raise damaged(name, f"it names the path {path!r}, which cannot be in a data directory")
    return path


def to_text(path: str) -> str:
    """A path as a manifest writes it."""
    # SQLite text is UTF-8, which has no room for other bytes: those, and the backslash itself, are
    # written as \xNN. Bytes, whatever the locale made of them.
    raw = os.fsencode(path).replace(b"\\", b"\\x5c")
    return raw.decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """The inverse of :func:`to_text`."""
    if "\\" not in text and text.isascii():
        return text

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match.group(1).decode())

    return os.fsdecode(_ESCAPE.sub(byte, text.encode("utf-8", "surrogatepass")))
