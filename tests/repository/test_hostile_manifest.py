"""A manifest that somebody forged is damage, and never a file outside the target directory.

Sealing needs public keys only, so who may write to the store can make a manifest that opens; a
restore of it runs as root.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pgkeep.errors import DamagedObject
from pgkeep.repository.identity import Repository
from pgkeep.repository.manifest import (
    FileRow,
    Manifest,
    ManifestBuilder,
    Tablespace,
    parse_manifest,
    read_head,
    read_manifest,
)
from pgkeep.repository.pack import PackInfo
from pgkeep.seal import envelope
from pgkeep.seal.envelope import METADATA, EnvelopeWriter
from tests.repository.kit import HEAD, LAYOUT, make_repository

KEY = LAYOUT.manifest(HEAD.backup)
PACK = PackInfo("ab" * 16, 1, 1234, bytes(32), bytes(16), b"", b"")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path)[0]


def row(path: str = "base/1", **changes: Any) -> FileRow:
    return FileRow(path, 0, 1, 0o600, 1, 2, 3, 1, 0, 99, 50, 0, 0)._replace(**changes)


def body(*statements: str) -> bytes:
    """The body of a sound manifest with one file, changed by these statements."""
    builder = ManifestBuilder()
    builder.add_pack(PACK)
    builder.add_files([row()])
    builder.add_directory("base", 0o700)
    builder.add_link("pg_tblspc/16400", "/srv/fast")
    builder.add_tablespace(Tablespace(16400, "fast", "/srv/fast"))
    builder.add_fact("server", {})
    database = builder._database
    database.commit()
    for statement in statements:
        database.executescript(statement)
    found = database.serialize()
    builder.close()
    return found


def forge(repository: Repository, database: bytes, head: bytes | None = None) -> bytes:
    writer = EnvelopeWriter(
        repository.keyring, envelope.MANIFEST, header={"backup": HEAD.backup}, metadata=True
    )
    head = json.dumps(asdict(HEAD)).encode() if head is None else head
    writer.add(head, kind=METADATA, final=not database)
    if database:
        writer.add(database, kind=METADATA, final=True)
    return bytes(writer.finish())


def read_all(manifest: Manifest) -> list[FileRow]:
    """Everything that a restore asks of a manifest."""
    found = list(manifest.files())
    manifest.packs(), manifest.directories(), manifest.links()
    manifest.tablespaces(), manifest.facts()
    manifest.close()
    return found


def test_the_forger_of_these_tests_can_forge(repository: Repository) -> None:
    assert read_all(parse_manifest(forge(repository, body()), KEY, repository.keyring)) == [row()]


ESCAPES = [
    "../x",
    "/etc/passwd",
    "base/../../x",
    "base//x",
    "base/./x",
    "base/",
    "",
    ".",
    "..",
    "a\0b",
]


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("table", ["files", "directories"])
def test_a_path_that_leads_elsewhere_is_refused(
    repository: Repository, table: str, path: str
) -> None:
    escaped = path.replace("\0", "\\x00")
    forged = forge(repository, body(f"UPDATE {table} SET path = '{escaped}'"))
    with pytest.raises(DamagedObject):
        read_all(parse_manifest(forged, KEY, repository.keyring))


def test_an_escape_sequence_cannot_hide_a_path(repository: Repository) -> None:
    forged = forge(repository, body(r"UPDATE files SET path = '\x2e\x2e\x2fx'"))
    with pytest.raises(DamagedObject):
        read_all(parse_manifest(forged, KEY, repository.keyring))


@pytest.mark.parametrize("path", ["relative", "/../x", "/a//b", "/"])
def test_a_file_outside_has_an_absolute_path_without_tricks(
    repository: Repository, path: str
) -> None:
    forged = forge(repository, body(f"UPDATE files SET area = 1, path = '{path}'"))
    with pytest.raises(DamagedObject):
        read_all(parse_manifest(forged, KEY, repository.keyring))


def test_names_with_dots_and_line_feeds_are_fine(repository: Repository) -> None:
    for path in ("..x", "x..", ".hidden", "a.b/..c", "...", "x\n"):
        forged = forge(repository, body(f"UPDATE files SET path = '{path}'"))
        manifest = parse_manifest(forged, KEY, repository.keyring)
        assert [one.path for one in read_all(manifest)] == [path]


@pytest.mark.parametrize("path", ["base", "pg_wal", "pg_tblspc", "pg_tblspc/..", "pg_tblspc/1/2"])
def test_a_link_anywhere_but_at_a_tablespace_is_refused(repository: Repository, path: str) -> None:
    """Through it a restore would write where the link points."""
    forged = forge(repository, body(f"UPDATE links SET path = '{path}', target = '/etc'"))
    with pytest.raises(DamagedObject):
        read_all(parse_manifest(forged, KEY, repository.keyring))


WRONG = [
    "UPDATE files SET size_bytes = 'large'",
    "UPDATE files SET size_bytes = -1",
    "UPDATE files SET size_bytes = 1.5",
    "UPDATE files SET mode = 65536",
    "UPDATE files SET area = 2",
    "UPDATE files SET map_pack = 99",
    "UPDATE files SET map_slot = -1",
    "UPDATE files SET map_stored = 1 << 40",
    "UPDATE files SET map_offset = -5",
    "UPDATE files SET path = x'00ff'",
    "UPDATE files SET path = CAST(x'ff' AS TEXT)",
    "UPDATE packs SET attempt = 'text'",
    "UPDATE packs SET attempt = x'00'",
    "UPDATE packs SET number = 0",
    "UPDATE packs SET number = 100000000",
    "UPDATE packs SET size_bytes = 1 << 40",
    "UPDATE packs SET blake3 = zeroblob(31)",
    "UPDATE packs SET data_key = zeroblob(70000)",
    "UPDATE directories SET mode = 'x'",
    "UPDATE links SET target = x'00'",
    r"UPDATE links SET target = '\x00'",
    "UPDATE tablespaces SET oid = -1",
    "UPDATE facts SET value = 'not JSON'",
    f"UPDATE facts SET value = '{'[' * 50_000}'",
    "DROP TABLE files",
    "DROP TABLE facts",
    "ALTER TABLE files DROP COLUMN inode",
    "ALTER TABLE files RENAME TO real; CREATE VIEW files AS SELECT * FROM real",
    "CREATE TRIGGER t AFTER DELETE ON files BEGIN DELETE FROM packs; END",
    "DROP TABLE links; CREATE VIRTUAL TABLE links USING fts5(path, target)",
]


@pytest.mark.parametrize("statement", WRONG, ids=[text[:60] for text in WRONG])
def test_a_body_that_no_backup_could_have_is_damage(repository: Repository, statement: str) -> None:
    forged = forge(repository, body(statement))
    with pytest.raises(DamagedObject):
        read_all(parse_manifest(forged, KEY, repository.keyring))


def test_what_a_later_version_adds_is_ignored(repository: Repository) -> None:
    """The page promises it of tables and of columns."""
    later = body(
        "CREATE TABLE more(x)",
        "CREATE INDEX i ON files(inode)",
        "ALTER TABLE files ADD COLUMN colour TEXT DEFAULT 'red'",
        "ALTER TABLE packs ADD COLUMN colour TEXT",
        "ALTER TABLE directories ADD COLUMN colour TEXT",
    )
    head = json.dumps(asdict(HEAD) | {"colour": "red"}).encode()
    manifest = parse_manifest(forge(repository, later, head), KEY, repository.keyring)
    assert manifest.head == HEAD
    assert manifest.packs() == {1: PACK}
    assert read_all(manifest) == [row()]


@pytest.mark.parametrize("database", [b"", b"x" * 100, b"SQLite format 3\0", b"\0" * 4096])
def test_a_body_that_is_no_database_is_damage(repository: Repository, database: bytes) -> None:
    with pytest.raises(DamagedObject):
        parse_manifest(forge(repository, database), KEY, repository.keyring)


def test_a_database_with_any_byte_changed_is_damage_or_still_sound(repository: Repository) -> None:
    """SQLite is made for malformed files; what it does not notice must not become an exception
    that nobody expects."""
    sound = body()
    for position in range(0, len(sound), 37):
        broken = bytearray(sound)
        broken[position] ^= 0xFF
        try:
            read_all(parse_manifest(forge(repository, bytes(broken)), KEY, repository.keyring))
        except DamagedObject:
            continue


def test_a_manifest_cannot_be_changed_by_who_reads_it(repository: Repository) -> None:
    manifest = parse_manifest(forge(repository, body()), KEY, repository.keyring)
    with pytest.raises(sqlite3.OperationalError):
        manifest._database.execute("DELETE FROM files")


HEADS: list[dict[str, Any]] = [
    {"timeline": "1"},
    {"timeline": 0},
    {"timeline": True},
    {"timeline": 1 << 40},
    {"start_lsn": "nowhere"},
    {"start_lsn": 7},
    {"ended": "yesterday"},
    {"wal_segment_size": 12345},
    {"page_size": 0},
    {"page_size": 1000},
    {"failed_pages": -1},
    {"failed_pages": None},
    {"parent": 7},
    {"checksums": 1},
    {"copy_seconds": "x"},
    {"system_identifier": 7},
]


@pytest.mark.parametrize("changes", HEADS, ids=[str(one) for one in HEADS])
def test_a_head_with_values_of_another_kind_is_damage(
    repository: Repository, changes: dict[str, Any]
) -> None:
    """Whoever lists backups computes with them."""
    head = json.dumps(asdict(HEAD) | changes).encode()
    repository.store.put(KEY, forge(repository, body(), head))
    with pytest.raises(DamagedObject):
        read_head(repository.store, KEY, repository.keyring)


@pytest.mark.parametrize("head", [b"[]", b"", b"{}", b"null", b"[" * 100_000, b"\xff"])
def test_a_head_that_is_none_is_damage(repository: Repository, head: bytes) -> None:
    repository.store.put(KEY, forge(repository, body(), head))
    with pytest.raises(DamagedObject):
        read_head(repository.store, KEY, repository.keyring)


@pytest.mark.parametrize(
    "head",
    [
        replace(HEAD, backup="20261121T120000Z"),
        replace(HEAD, cluster="other"),
        replace(HEAD, system_identifier="7"),
        replace(HEAD, partial=True),
    ],
)
def test_a_manifest_of_another_place_is_refused(repository: Repository, head: Any) -> None:
    """Invariant 7."""
    members = json.dumps(asdict(head)).encode()
    repository.store.put(KEY, forge(repository, body(), members))
    for read in (read_head, read_manifest):
        with pytest.raises(DamagedObject, match="wrong place"):
            read(repository.store, KEY, repository.keyring)


def test_a_manifest_without_a_body_or_a_head_is_damage(repository: Repository) -> None:
    writer = EnvelopeWriter(repository.keyring, envelope.MANIFEST, header={}, metadata=True)
    empty = bytes(writer.finish())
    with pytest.raises(DamagedObject):
        parse_manifest(empty, KEY, repository.keyring)


def test_a_partial_manifest_is_read_in_its_place_and_nowhere_else(repository: Repository) -> None:
    builder = ManifestBuilder()
    builder.add_pack(PACK)
    builder.add_files([row()])
    head = replace(HEAD, partial=True, backup="", ended="", stop_lsn="")
    data = builder.build(repository.keyring, head)
    builder.close()
    key = f"{LAYOUT.partials}{head.attempt}/00000001"
    repository.store.put(key, data)
    assert read_head(repository.store, key, repository.keyring) == head
    assert list(read_manifest(repository.store, key, repository.keyring).files()) == [row()]
    repository.store.put(KEY, data)
    with pytest.raises(DamagedObject):
        read_head(repository.store, KEY, repository.keyring)


def test_a_long_header_or_head_is_read_whole(repository: Repository) -> None:
    """More than the first request brings."""
    head = replace(HEAD, note=os.urandom(30_000).hex())
    writer = EnvelopeWriter(
        repository.keyring, envelope.MANIFEST, header={"x": "y" * 40_000}, metadata=True
    )
    writer.add(json.dumps(asdict(head)).encode(), kind=METADATA)
    writer.add(body(), kind=METADATA, final=True)
    repository.store.put(KEY, writer.finish())
    assert read_head(repository.store, KEY, repository.keyring) == head


def test_an_inode_of_64_bits_survives(repository: Repository) -> None:
    """SQLite's integers are signed; some network file systems use the highest bit."""
    builder = ManifestBuilder()
    builder.add_pack(PACK)
    rows = [row(f"f{n}", inode=n) for n in (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)]
    builder.add_files(rows)
    data = bytes(builder.build(repository.keyring, HEAD))
    builder.close()
    manifest = parse_manifest(data, KEY, repository.keyring)
    assert sorted(one.inode for one in manifest.files()) == [one.inode for one in rows]
