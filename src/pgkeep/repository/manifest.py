"""Manifests: what one backup consists of (format, section 7).

A head that lists the backup, sealed apart so that a listing reads a few kilobytes, and an
SQLite database that names every file. Written last, twice: a backup exists because its manifest
does.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.repository.pack import PackInfo
from pgkeep.seal import envelope
from pgkeep.seal.envelope import METADATA, EnvelopeWriter
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Store

PIECE_BYTES = 4 << 20
_HEAD_BYTES = 16 << 10
_LEVEL = 6

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


@dataclass(frozen=True)
class Head:
    """Enough to list a backup. Moments are UTC text, LSNs PostgreSQL's text."""

    backup: str
    attempt: str
    cluster: str
    system_identifier: str
    kind: str
    parent: str | None
    started: str
    ended: str
    start_lsn: str
    stop_lsn: str
    timeline: int
    wal_segment_size: int
    page_size: int
    checksums: bool
    postgres: str
    postgres_major: int
    files: int
    database_bytes: int
    added_bytes: int
    stored_bytes: int
    failed_pages: int
    from_standby: bool
    host: str
    level: int
    note: str
    copy_seconds: float
    total_seconds: float
    pgkeep: str
    partial: bool = False


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
        self.stored_bytes = 0

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
        self.stored_bytes += pack.size_bytes

    def add_files(self, rows: Iterable[FileRow]) -> None:
        self._database.executemany(
            "INSERT INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            ((_to_text(row.path), *row[1:]) for row in rows),
        )

    def add_directory(self, path: str, mode: int) -> None:
        self._database.execute("INSERT INTO directories VALUES (?,?)", (_to_text(path), mode))

    def add_link(self, path: str, target: str) -> None:
        row = (_to_text(path), _to_text(target))
        self._database.execute("INSERT INTO links VALUES (?,?)", row)

    def add_tablespace(self, tablespace: Tablespace) -> None:
        row = (tablespace.oid, _to_text(tablespace.name), _to_text(tablespace.location))
        self._database.execute("INSERT INTO tablespaces VALUES (?,?,?)", row)

    def add_fact(self, name: str, value: Any) -> None:
        """A fact that restore's preflight compares; any JSON value."""
        row = (name, json.dumps(value, sort_keys=True))
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", row)

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
    """A manifest that was read: its head, and queries over its body."""

    def __init__(self, head: Head, database: sqlite3.Connection) -> None:
        self.head = head
        self._database = database

    def files(self) -> Iterator[FileRow]:
        """Every file, in order of the place of its map (so that map blocks are read once)."""
        query = "SELECT * FROM files ORDER BY map_pack, map_frame, map_slot"
        for row in self._database.execute(query):
            yield FileRow(_from_text(row[0]), *row[1:])

    def packs(self) -> dict[int, PackInfo]:
        """All packs by their row id."""
        rows = self._database.execute("SELECT * FROM packs")
        return {row[0]: PackInfo(row[1].hex(), *row[2:]) for row in rows}

    def directories(self) -> list[tuple[str, int]]:
        """(path, mode), parents before children."""
        rows = self._database.execute("SELECT path, mode FROM directories ORDER BY path")
        return [(_from_text(path), mode) for path, mode in rows]

    def links(self) -> list[tuple[str, str]]:
        """Symbolic links: (path, target)."""
        rows = self._database.execute("SELECT path, target FROM links ORDER BY path")
        return [(_from_text(path), _from_text(target)) for path, target in rows]

    def tablespaces(self) -> list[Tablespace]:
        rows = self._database.execute("SELECT oid, name, location FROM tablespaces ORDER BY oid")
        return [Tablespace(oid, _from_text(n), _from_text(place)) for oid, n, place in rows]

    def facts(self) -> dict[str, Any]:
        rows = self._database.execute("SELECT name, value FROM facts")
        return {name: json.loads(value) for name, value in rows}

    def close(self) -> None:
        self._database.close()


def read_head(store: Store, key: str, keyring: Keyring) -> Head:
    """Read a manifest's head with one small request.

    Raises ``ObjectNotFound``, ``IdentityNeeded`` (no metadata key), ``DamagedObject``.
    """
    data = store.get_range(key, 0, _HEAD_BYTES)
    header = envelope.parse_header(
        data, key, object_type=envelope.MANIFEST, repository_id=keyring.repository_id
    )
    _, stored, _ = envelope.read_prefix(data, header.end, key)
    needed = header.end + envelope.PREFIX_SIZE + stored
    if needed > len(data):
        data = store.get_range(key, 0, needed)
    opener = envelope.opener_for(keyring, header, key)
    return _parse_head(opener.open_at(data, header.end, number=0), key)


def read_manifest(store: Store, key: str, keyring: Keyring) -> Manifest:
    """Read a whole manifest and verify its hash.

    Raises ``ObjectNotFound``, ``IdentityNeeded`` (no metadata key), ``DamagedObject``.
    """
    return parse_manifest(store.get(key), key, keyring)


def parse_manifest(data: bytes, key: str, keyring: Keyring) -> Manifest:
    """As :func:`read_manifest`, from the object's bytes."""
    header = envelope.parse_header(
        data, key, object_type=envelope.MANIFEST, repository_id=keyring.repository_id
    )
    head, *body = envelope.read_frames(data, keyring, header, key)
    database = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        database.deserialize(b"".join(body))
        database.execute("SELECT count(*) FROM files").fetchone()
    except sqlite3.Error as error:
        raise envelope.damaged(key, f"its body is not a database ({error})") from error
    return Manifest(_parse_head(head, key), database)


def _parse_head(data: bytes, key: str) -> Head:
    known = {field.name for field in fields(Head)}
    try:
        members = json.loads(data)
        head = Head(**{name: value for name, value in members.items() if name in known})
    except (ValueError, TypeError) as error:
        raise envelope.damaged(key, f"its head is malformed ({error})") from error
    backup = key.rpartition("/")[2]
    if head.backup != backup:
        raise DamagedObject(f"{key} is the manifest of {head.backup}, in the wrong place.")
    return head


def _to_text(path: str) -> str:
    # SQLite text is UTF-8, which has no room for lone surrogates: such bytes, and the backslash
    # itself, are written as \xNN.
    escaped = path.replace("\\", "\\x5c")
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _from_text(text: str) -> str:
    if "\\" not in text:
        return text

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match.group(1).decode())

    raw = re.sub(rb"\\x([0-9a-f]{2})", byte, text.encode())
    return raw.decode("utf-8", "surrogateescape")
