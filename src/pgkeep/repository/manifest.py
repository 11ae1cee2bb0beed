"""Manifests: what one backup consists of (format, section 7).

A head that lists the backup, sealed apart so that a listing reads a few kilobytes, and an
SQLite database that names every file. Written last, twice: a backup exists because its manifest
does.

Whoever may write to the store can make a manifest that opens, since sealing needs public keys only,
and root restores it. So reading (``manifest_body.py``) trusts nothing: not the database's schema,
not the types of its values, no path.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from pgkeep.repository.manifest_body import check_body, check_path, from_text, to_text
from pgkeep.repository.manifest_head import Head as Head
from pgkeep.repository.manifest_head import object_type_of, parse_head
from pgkeep.repository.pack import PackInfo
from pgkeep.seal import envelope
from pgkeep.seal.envelope import METADATA, EnvelopeWriter
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Store

PIECE_BYTES = 4 << 20
_HEAD_BYTES = 16 << 10
_LEVEL = 6
_MAX_BODY = 4 << 30
_INODES = 1 << 64
DATA_DIRECTORY, OUTSIDE = 0, 1

_SCHEMA = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE packs(
    id INTEGER PRIMARY KEY, attempt BLOB NOT NULL, number INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, blake3 BLOB NOT NULL, object_id BLOB NOT NULL,
    data_key BLOB NOT NULL, metadata_key BLOB NOT NULL);
CREATE TABLE files(
    path TEXT PRIMARY KEY, area INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, mode INTEGER NOT NULL, mtime_us INTEGER NOT NULL,
    ctime_us INTEGER NOT NULL, inode INTEGER NOT NULL,
    map_pack INTEGER NOT NULL REFERENCES packs, map_frame INTEGER NOT NULL,
    map_offset INTEGER NOT NULL, map_stored INTEGER NOT NULL, map_slot INTEGER NOT NULL,
    failed_pages INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE directories(path TEXT PRIMARY KEY, mode INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE links(path TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tablespaces(oid INTEGER PRIMARY KEY, name TEXT NOT NULL, location TEXT NOT NULL);
"""


class FileRow(NamedTuple):
    """One file of a manifest; its map is frame ``map_frame`` of pack ``map_pack``, ``map_slot`` in
    it.

    Times in microseconds since 1970. Paths as PostgreSQL shows them, relative in area 0.
    """

    path: str
    area: int
    size_bytes: int
    mode: int
    mtime_us: int
    ctime_us: int
    inode: int
    map_pack: int
    map_frame: int
    map_offset: int
    map_stored: int
    map_slot: int
    failed_pages: int


class Tablespace(NamedTuple):
    """A tablespace that lies outside the data directory."""

    oid: int
    name: str
    location: str


class ManifestBuilder:
    """Collects the body of a manifest, in memory. Used by one thread."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.executescript(_SCHEMA)
        self._pack_ids: dict[tuple[str, int], int] = {}
        self._stored_by: dict[str, int] = {}

    def pack_id(self, attempt: str, number: int) -> int:
        """The row id for a pack, handed out before the pack is finished."""
        return self._pack_ids.setdefault((attempt, number), len(self._pack_ids) + 1)

    def add_pack(self, pack: PackInfo) -> None:
        row = (
            self.pack_id(pack.attempt, pack.number),
            bytes.fromhex(pack.attempt),
            pack.number,
            pack.size_bytes,
            pack.blake3,
            pack.object_id,
            pack.sealed_data,
            pack.sealed_metadata,
        )
        self._database.execute("INSERT INTO packs VALUES (?,?,?,?,?,?,?,?)", row)
        self._stored_by[pack.attempt] = self.stored_by(pack.attempt) + pack.size_bytes

    @property
    def stored_bytes(self) -> int:
        """The size of all packs together."""
        return sum(self._stored_by.values())

    def stored_by(self, attempt: str) -> int:
        """The size of the packs that an attempt stored."""
        return self._stored_by.get(attempt, 0)

    def add_files(self, rows: Iterable[FileRow]) -> None:
        self._database.executemany(
            "INSERT INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            ((to_text(row.path), *row[1:6], _signed(row.inode), *row[7:]) for row in rows),
        )

    def add_directory(self, path: str, mode: int) -> None:
        self._database.execute("INSERT INTO directories VALUES (?,?)", (to_text(path), mode))

    def add_link(self, path: str, target: str) -> None:
        row = (to_text(path), to_text(target))
        self._database.execute("INSERT INTO links VALUES (?,?)", row)

    def add_tablespace(self, tablespace: Tablespace) -> None:
        row = (tablespace.oid, to_text(tablespace.name), to_text(tablespace.location))
        self._database.execute("INSERT INTO tablespaces VALUES (?,?,?)", row)

    def add_fact(self, name: str, value: Any) -> None:
        """A fact that restore's preflight compares; any JSON value."""
        row = (name, json.dumps(value, sort_keys=True))
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", row)

    def pack_names(self) -> list[tuple[str, int]]:
        """(attempt, number) of every pack that the manifest names."""
        rows = self._database.execute("SELECT attempt, number FROM packs")
        return [(attempt.hex(), number) for attempt, number in rows]

    def totals(self) -> tuple[int, int, int]:
        """(files, their bytes, failed pages)."""
        query = "SELECT count(*), coalesce(sum(size_bytes),0), coalesce(sum(failed_pages),0)"
        row = self._database.execute(query + " FROM files").fetchone()
        return row[0], row[1], row[2]

    def build(self, keyring: Keyring, head: Head) -> memoryview:
        """The stored bytes of the manifest."""
        self._database.commit()
        body = self._database.serialize()
        writer = EnvelopeWriter(
            keyring,
            envelope.PARTIAL_MANIFEST if head.partial else envelope.MANIFEST,
            header={"backup": head.backup, "attempt": head.attempt, "head": 1},
            metadata=True,
            level=_LEVEL,
            capacity=len(body) // 2 + (1 << 16),
        )
        writer.add(json.dumps(asdict(head)).encode(), kind=METADATA)
        with memoryview(body) as view:
            for start in range(0, len(body), PIECE_BYTES):
                final = start + PIECE_BYTES >= len(body)
                writer.add(view[start : start + PIECE_BYTES], kind=METADATA, final=final)
        return writer.finish()

    def close(self) -> None:
        self._database.close()


class Manifest:
    """A manifest that was read: its head, and queries over its body. ``name`` is for errors.

    Every query raises ``DamagedObject`` for values that no backup could have.
    """

    def __init__(
        self, head: Head, database: sqlite3.Connection, *, name: str = "The manifest"
    ) -> None:
        self.head = head
        self._database = database
        self._name = name

    def files(self) -> Iterator[FileRow]:
        """Every file, in order of the place of its map (so that map blocks are read once)."""
        query = f"SELECT {', '.join(FileRow._fields)} FROM files "
        for row in self._rows(query + "ORDER BY map_pack, map_frame, map_slot"):
            path = from_text(row[0])
            # Outside the data directory paths are absolute; below the root the same rule holds.
            inside = path if row[1] == DATA_DIRECTORY else path.removeprefix("/")
            if row[1] != DATA_DIRECTORY and inside == path:
                raise envelope.damaged(self._name, f"{path!r} is no absolute path")
            check_path(inside, self._name)
            yield FileRow._make((path, *row[1:6], row[6] % _INODES, *row[7:]))

    def packs(self) -> dict[int, PackInfo]:
        """All packs by their row id."""
        query = "SELECT id, attempt, number, size_bytes, blake3, object_id, data_key, metadata_key"
        rows = self._rows(query + " FROM packs")
        return {row[0]: PackInfo(row[1].hex(), *row[2:]) for row in rows}

    def directories(self) -> list[tuple[str, int]]:
        """(path, mode), parents before children."""
        rows = self._rows("SELECT path, mode FROM directories ORDER BY path")
        return [(check_path(from_text(path), self._name), mode) for path, mode in rows]

    def links(self) -> list[tuple[str, str]]:
        """Symbolic links of tablespaces: (path, target). A target may be any place."""
        rows = self._rows("SELECT path, target FROM links ORDER BY path")
        found = [(from_text(path), from_text(target)) for path, target in rows]
        for path, target in found:
            # Nothing else is a link: through another one a restore would write elsewhere.
            folder, _, oid = path.partition("/")
            if folder != "pg_tblspc" or not (oid.isascii() and oid.isdigit()) or "\0" in target:
                raise envelope.damaged(self._name, f"it has a link at {path!r}")
        return found

    def tablespaces(self) -> list[Tablespace]:
        rows = self._rows("SELECT oid, name, location FROM tablespaces ORDER BY oid")
        return [Tablespace(oid, from_text(name), from_text(place)) for oid, name, place in rows]

    def facts(self) -> dict[str, Any]:
        rows = self._rows("SELECT name, value FROM facts")
        try:
            return {name: json.loads(value) for name, value in rows}
        except (ValueError, RecursionError) as error:
            raise envelope.damaged(self._name, "a fact is not JSON") from error

    def close(self) -> None:
        self._database.close()

    def _rows(self, query: str) -> Iterator[Any]:
        try:
            yield from self._database.execute(query)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise envelope.damaged(self._name, f"its body cannot be read ({error})") from error


def read_head(store: Store, key: str, keyring: Keyring) -> Head:
    """Read a manifest's head with one small request.

    Raises ``ObjectNotFound``, ``IdentityNeeded`` (no metadata key), ``DamagedObject``.
    """
    header, data = envelope.fetch_header(
        store,
        key,
        object_type=object_type_of(key),
        repository_id=keyring.repository_id,
        first_bytes=_HEAD_BYTES,
    )
    needed = header.end + envelope.PREFIX_SIZE
    if len(data) >= needed:
        needed += envelope.read_prefix(data, header.end, key)[1]
    if needed > len(data):
        data = store.get_range(key, 0, max(needed, len(data) * 2))
    opener = envelope.opener_for(keyring, header, key)
    return parse_head(opener.open_at(data, header.end, number=0), key)


def read_manifest(store: Store, key: str, keyring: Keyring) -> Manifest:
    """Read a whole manifest and verify its hash.

    Raises ``ObjectNotFound``, ``IdentityNeeded`` (no metadata key), ``DamagedObject``.
    """
    return parse_manifest(store.get(key), key, keyring)


def parse_manifest(data: bytes, key: str, keyring: Keyring) -> Manifest:
    """As :func:`read_manifest`, from the object's bytes.

    A key under ``partials/`` is that of a partial manifest.
    """
    header = envelope.parse_header(
        data, key, object_type=object_type_of(key), repository_id=keyring.repository_id
    )
    frames = envelope.read_frames(data, keyring, header, key)
    head = parse_head(next(frames), key)
    body = bytearray()
    for piece in frames:
        body += piece
        if len(body) > _MAX_BODY:
            raise envelope.damaged(key, "its body is impossibly large")
    if not body:
        raise envelope.damaged(key, "it has no body")
    database = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        database.deserialize(body)  # which makes a copy of its own
        del body
        check_body(database, key)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        database.close()
        raise envelope.damaged(key, f"its body is not a sound database ({error})") from error
    except BaseException:
        database.close()
        raise
    return Manifest(head, database, name=key)


def _signed(inode: int) -> int:
    # SQLite's integers are signed, and some file systems use all 64 bits.
    return inode - _INODES if inode >= _INODES >> 1 else inode
