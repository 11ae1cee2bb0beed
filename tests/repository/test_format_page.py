"""docs/format.md is enough to write a reader: here is one, written from the page alone.

Nothing of pgkeep reads anything in this file. pgkeep makes a small repository, once sealed and once
not; the reader below opens it with an identity, checks everything that the page says, and must come
to the very bytes that went in. Whoever changes the format finds out here that the page has to
change with it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pgkeep.repository.identity import Repository, add_host
from pgkeep.repository.manifest import FileRow, ManifestBuilder, Tablespace
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, build_block
from pgkeep.repository.pack import PackWriter
from pgkeep.repository.system import register_system
from pgkeep.seal import age
from tests.repository.kit import (
    AT,
    BY,
    HEAD,
    LAYOUT,
    SYSTEM,
    make_repository,
    put_history,
    put_wal,
)

PAGE = 8192
ATTEMPT = "c0" * 16
CONTENT = {
    "PG_VERSION": b"18\n",
    "base/5/16384": b"".join(bytes([n]) * PAGE for n in (1, 2, 3))
    + bytes(4 * PAGE)
    + b"\x09" * 100,
    "pg_tblspc/16400/PG_18/1/2": b"\x07" * PAGE,
    "empty": b"",
    "back\\slash": b"odd",
    os.fsdecode(b"not utf8 \xff"): b"odder",
    "/etc/postgresql/pg_hba.conf": b"local all all trust\n",
}
SEGMENT = "000000010000000000000003"
WAL = {
    SEGMENT: os.urandom(9 << 20),
    f"{SEGMENT}.partial": b"p" * 100,
    f"{SEGMENT}.00000028.backup": b"START WAL LOCATION\n",
}
HISTORY = b"1\t0/580000\tno recovery target specified\n"

# -- the reader ----------------------------------------------------------------------------------


def record(data: bytes, kind: str) -> dict[str, Any]:
    """Section 2."""
    line, rest = data[: data.index(b"\n") + 1], data[data.index(b"\n") + 1 :]
    assert rest == b"blake3 " + blake3(line).hexdigest().encode() + b"\n"
    members: dict[str, Any] = json.loads(line)
    assert (members["pgkeep"], members["type"]) == (1, kind)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", members["at"])
    assert {"host", "pid", "version"} <= set(members["by"])
    return members


class Keys:
    """Sections 2.1 and 2.2: who the repository is, and its secrets."""

    def __init__(self, objects: Mapping[str, bytes], identity: str) -> None:
        own = record(objects["pgkeep/repository"], "repository")
        self.repository_id = bytes.fromhex(own["id"])
        assert len(self.repository_id) == 16
        self.sealed = own["sealing"] == "age"
        self.secrets: list[Any] = []
        publics = ["none", "none"]
        material = bytes.fromhex(own["hash_salt"])
        if self.sealed:
            keys = self._newest(objects, own["id"])
            opener = pyrage.x25519.Identity.from_str(identity)
            publics = [keys["repository_public"], keys["metadata_public"]]
            for name, public in zip(("repository_secret", "metadata_secret"), publics, strict=True):
                text = pyrage.decrypt(keys[name].encode(), [opener])
                opener = pyrage.x25519.Identity.from_str(text.decode())
                assert str(opener.to_public()) == public
                self.secrets.append(opener)
            material = text
            self._check_proof(keys, text)
        lines = ("pgkeep fingerprint 1", own["id"], *publics)
        self.fingerprint = blake3("".join(f"{one}\n" for one in lines).encode()).hexdigest()[:32]
        context = "pgkeep 2026-11-20 page hash"
        self.page_hash_key = blake3(material, derive_key_context=context).digest()

    def _newest(self, objects: Mapping[str, bytes], repository_id: str) -> dict[str, Any]:
        numbers = [key for key in objects if re.fullmatch(r"pgkeep/keys/\d{8}", key)]
        found = [record(objects[key], "keys") for key in sorted(numbers)]
        return [one for one in found if one["repository"] == repository_id][-1]

    def _check_proof(self, keys: dict[str, Any], metadata_secret: bytes) -> None:
        key = blake3(metadata_secret, derive_key_context="pgkeep 2026-11-20 recipients").digest()
        lines = (keys["repository_public"], keys["metadata_public"], *keys["recipients"])
        text = "".join(f"{line}\n" for line in lines).encode()
        assert keys["proof"] == blake3(text, key=key).hexdigest()

    def unwrap(self, sealed: bytes, kind: int) -> bytes:
        return bytes(pyrage.decrypt(sealed, [self.secrets[kind]]))


class Envelope:
    """Section 3."""

    def __init__(self, data: bytes, keys: Keys, *, kind: int) -> None:
        assert data[:9] == b"PGKEEP\0\x01" + bytes([kind])
        assert data[9] == keys.sealed
        assert data[16:32] == keys.repository_id
        (length,) = struct.unpack_from("<I", data, 12)
        d, m = struct.unpack_from("<HH", data, 48)
        self.end = 56 + length + d + m
        self.data, self.kind, self.keys = data, kind, keys
        self.object_id = data[32:48]
        blank = data[:32] + bytes(16) + data[48 : self.end]
        assert blake3(blank).digest()[:16] == self.object_id
        self.header: dict[str, Any] = json.loads(data[56 : 56 + length])
        self.sealed_keys = [data[56 + length : 56 + length + d], data[self.end - m : self.end]]
        self.index_offset, self.frames = struct.unpack_from("<QI", data, len(data) - 48)
        self.digest = data[-32:]
        assert blake3(data[:-32]).digest() == self.digest
        self.places = self._places()

    def _places(self) -> list[int]:
        places, at = [], self.end
        while at < len(self.data) - 48:
            places.append(at)
            at += 8 + (struct.unpack_from("<I", self.data, at)[0] & 0x7FFFFFFF)
        assert at == len(self.data) - 48
        assert len(places) == self.frames >= 1
        return places

    def frame(self, number: int) -> tuple[int, bytes]:
        """(class, plain bytes)."""
        at = self.places[number]
        return open_frame(
            self.data[at:],
            self.keys,
            (self.kind, self.object_id, self.sealed_keys),
            number=number,
            last=number == self.frames - 1,
        )

    def content(self, kind: int) -> list[bytes]:
        found = [self.frame(number) for number in range(self.frames)]
        assert {one for one, _ in found} == {kind}
        return [plain for _, plain in found]


def open_frame(
    data: bytes,
    keys: Keys,
    origin: tuple[int, bytes, list[bytes]],
    *,
    number: int,
    last: bool,
) -> tuple[int, bytes]:
    first, length = struct.unpack_from("<II", data)
    stored, kind = first & 0x7FFFFFFF, first >> 31
    packed = data[8 : 8 + stored]
    assert len(packed) == stored
    if keys.sealed:
        object_type, object_id, sealed_keys = origin
        bound = b"pgkeep1\0" + keys.repository_id + bytes([object_type, kind, last]) + bytes(5)
        bound += object_id + struct.pack("<Q", number)
        assert len(bound) == 56
        nonce = bytes(4) + struct.pack(">Q", number)
        packed = AESGCM(keys.unwrap(sealed_keys[kind], kind)).decrypt(nonce, packed, bound)
    parameters = zstandard.get_frame_parameters(packed)
    assert parameters.has_checksum
    assert parameters.content_size == length
    plain = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    assert len(plain) == length
    return kind, plain


def unescaped(text: str) -> bytes:
    """Section 7, for paths and names."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode())


class Block:
    """Section 6."""

    def __init__(self, data: bytes) -> None:
        magic, self.page_size, m, p, f, e, d, b = struct.unpack_from("<4s7I", data)
        assert magic == b"MAP1"
        self._data, self._at = data, 32
        self.packs = []
        for _ in range(p):
            attempt, number = struct.unpack_from("<16sI", data, self._at)
            self.packs.append((attempt, number))
            self._at += 20
        self.sizes = self._column(m, "Q")
        firsts = [[*self._column(m), end] for end in (f, e, d)]
        assert all(one[0] == 0 for one in firsts)
        frames = list(zip(*(self._column(f) for _ in range(5)), strict=True))
        extents = list(zip(*(self._column(e) for _ in range(4)), strict=True))
        failed = self._column(d)
        self.paths = data[self._at :].split(b"\0")[:-1]
        assert len(data) == self._at + b
        self.maps = [
            tuple(
                rows[first[slot] : first[slot + 1]]
                for rows, first in zip((frames, extents, failed), firsts, strict=True)
            )
            for slot in range(m)
        ]

    def _column(self, count: int, letter: str = "I") -> tuple[int, ...]:
        found = struct.unpack_from(f"<{count}{letter}", self._data, self._at)
        self._at += struct.calcsize(f"<{count}{letter}")
        return found


class Reader:
    """Section 10: a backup's files, by ranged reads of packs."""

    def __init__(self, objects: Mapping[str, bytes], keys: Keys, backup: str) -> None:
        self._objects, self._keys = objects, keys
        self._root = f"main/{SYSTEM}/"
        data = objects[f"{self._root}manifests/{backup}"]
        assert data == objects[f"{self._root}manifests-copy/{backup}"]
        manifest = Envelope(data, keys, kind=2)
        head, *body = manifest.content(1)
        assert manifest.header["head"] == 1
        self.head = json.loads(head)
        self.database = sqlite3.connect(":memory:")
        self.database.deserialize(b"".join(body))
        self.database.row_factory = sqlite3.Row
        self.packs = {row["id"]: row for row in self.rows("packs")}

    def rows(self, table: str) -> list[Any]:
        return self.database.execute(f"SELECT * FROM {table}").fetchall()

    def files(self) -> dict[bytes, bytes]:
        return {unescaped(row["path"]): self._file(row) for row in self.rows("files")}

    def _file(self, row: Any) -> bytes:
        pack = self.packs[row["map_pack"]]
        kind, plain = self._frame(pack, row["map_frame"], row["map_offset"], row["map_stored"] + 8)
        assert kind == 1
        block = Block(plain)
        slot = row["map_slot"]
        assert block.paths[slot] == unescaped(row["path"])
        size = block.sizes[slot]
        frames, extents, failed = block.maps[slot]
        assert (size, len(failed)) == (row["size_bytes"], row["failed_pages"])
        whole, page = b"", 0
        for first, pages, frame, inside in extents:
            assert first == page
            page += pages
            if frame == 0xFFFFFFFF:
                whole += bytes(pages * block.page_size)
                continue
            where, number, offset, stored, length = frames[frame]
            kind, plain = self._frame(self._row_of(block.packs[where]), number, offset, stored + 8)
            assert (kind, len(plain)) == (0, length)
            whole += plain[inside * block.page_size : (inside + pages) * block.page_size]
        assert page == -(-size // block.page_size)
        return whole[:size]

    def _row_of(self, pack: tuple[bytes, int]) -> Any:
        return next(r for r in self.packs.values() if (r["attempt"], r["number"]) == pack)

    def _frame(self, pack: Any, number: int, offset: int, length: int) -> tuple[int, bytes]:
        data = self._objects[f"{self._root}packs/{pack['attempt'].hex()}/{pack['number']:08d}"]
        origin = (1, pack["object_id"], [pack["data_key"], pack["metadata_key"]])
        return open_frame(
            data[offset : offset + length], self._keys, origin, number=number, last=False
        )


# -- making what it reads ------------------------------------------------------------------------


def put_files(repository: Repository) -> None:
    """Two packs and a manifest that hold CONTENT, one page of it marked as failed."""
    store, keyring = repository.store, repository.keyring
    key = keyring.page_hash_key()
    builder = ManifestBuilder()
    writers = [
        PackWriter(keyring, ATTEMPT, number, page_size=PAGE, hash_key=key) for number in (1, 2)
    ]
    maps = [file_map(writers[0], path, content, key.key) for path, content in CONTENT.items()]
    frame = writers[1].add_map_block(build_block(maps, PAGE))
    for writer in writers:
        info, view = writer.finish()
        store.put(info.key(LAYOUT), view, if_absent=True)
        builder.add_pack(info)
    pack = builder.pack_id(ATTEMPT, 2)
    builder.add_files(
        FileRow(
            one.path,
            int(one.path.startswith("/")),
            one.size_bytes,
            0o600,
            -1,
            2,
            (1 << 64) - 1,
            pack,
            frame.number,
            frame.offset,
            frame.stored,
            slot,
            len(one.failed),
        )
        for slot, one in enumerate(maps)
    )
    builder.add_directory("base/5", 0o700)
    builder.add_link("pg_tblspc/16400", "/srv/back\\slash")
    builder.add_tablespace(Tablespace(16400, "fast", "/srv/back\\slash"))
    builder.add_fact("hash", {"kind": key.kind, "shown": key.shown.hex()})
    data = builder.build(keyring, HEAD)
    store.put(LAYOUT.manifest(HEAD.backup), data, if_absent=True)
    store.put(LAYOUT.manifest_copy(HEAD.backup), data, if_absent=True)


def file_map(writer: PackWriter, path: str, content: bytes, key: bytes) -> FileMap:
    """Pages that are zeros are left out, all others lie in one frame."""
    one = FileMap(path, len(content), failed=[1] if path == "base/5/16384" else [])
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    plain = b""
    for number, page in enumerate(pages):
        if page == bytes(PAGE):
            one.extents.append(Extent(number, 1, HOLE, 0))
        else:
            one.extents.append(Extent(number, 1, 0, len(plain) // PAGE))
            plain += page
    if plain:
        hashes = b"".join(
            blake3(page, key=key).digest()[:8] for page in pages if page != bytes(PAGE)
        )
        one.frames.append(
            FrameAddress(writer.attempt, writer.number, *writer.add_data(plain, hashes))
        )
    return one


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Repository, dict[str, bytes], Keys]:
    """A repository, its objects by key, and the reader's keys."""
    repository, identity = make_repository(tmp_path, sealed=request.param)
    store = repository.store
    register_system(store, "main", SYSTEM, postgres_major=18, new_system=False, at=AT, by=BY)
    put_files(repository)
    kinds = {"segment": SEGMENT, "partial": f"{SEGMENT}.partial"}
    kinds["backup"] = f"{SEGMENT}.00000028.backup"
    for kind, name in kinds.items():
        put_wal(repository, name, WAL[name], kind=kind)
    put_history(repository, 2, HISTORY)
    objects = {info.key: store.get(info.key) for info in store.list()}
    return repository, objects, Keys(objects, identity)


Made = tuple[Repository, dict[str, bytes], Keys]


# -- what must hold ------------------------------------------------------------------------------


def test_every_file_of_a_backup_comes_back(made: Made) -> None:
    _, objects, keys = made
    reader = Reader(objects, keys, HEAD.backup)
    assert reader.files() == {os.fsencode(path): data for path, data in CONTENT.items()}
    marked = {row["path"]: row["failed_pages"] for row in reader.rows("files")}
    assert {path for path, count in marked.items() if count} == {"base/5/16384"}


def test_the_head_is_what_the_page_says(made: Made) -> None:
    _, objects, keys = made
    head = Reader(objects, keys, HEAD.backup).head
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    section = page[page.index("Head, all members present") : page.index("Body:")]
    named = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?`) \|", section, re.M))))
    assert named == set(head)
    assert head["system_identifier"] == str(SYSTEM)


def test_the_body_is_what_the_page_says(made: Made) -> None:
    _, objects, keys = made
    reader = Reader(objects, keys, HEAD.backup)
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    documented = sqlite3.connect(":memory:")
    documented.executescript(page[page.index("```sql") + 6 : page.index("```\n\n`packs` has")])
    for (table,) in documented.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"):
        columns = documented.execute(f"PRAGMA table_info({table})").fetchall()
        found = reader.database.execute(f"PRAGMA table_info({table})").fetchall()
        assert [tuple(row) for row in found] == columns
    assert [tuple(row) for row in reader.rows("directories")] == [("base/5", 0o700)]
    ((path, target),) = reader.rows("links")
    assert (path, unescaped(target)) == ("pg_tblspc/16400", b"/srv/back\\slash")
    ((oid, name, location),) = reader.rows("tablespaces")
    assert (oid, name, unescaped(location)) == (16400, "fast", b"/srv/back\\slash")
    assert {row["inode"] for row in reader.rows("files")} == {-1}
    facts = {row["name"]: json.loads(row["value"]) for row in reader.rows("facts")}
    assert facts["hash"] == {"kind": 1, "shown": blake3(keys.page_hash_key).hexdigest()}


def test_the_index_of_a_pack_names_every_frame_and_page(made: Made) -> None:
    _, objects, keys = made
    for number in (1, 2):
        pack = Envelope(objects[f"main/{SYSTEM}/packs/{ATTEMPT}/{number:08d}"], keys, kind=1)
        assert pack.header == {"attempt": ATTEMPT, "number": number}
        kind, index = pack.frame(pack.frames - 1)
        assert (kind, pack.index_offset) == (1, pack.places[-1])
        magic, page_size, n, hash_kind, shown = struct.unpack_from("<4sIIB3x32s", index)
        assert (magic, page_size, n, hash_kind) == (b"PKI1", PAGE, pack.frames - 1, 1)
        assert shown == blake3(keys.page_hash_key).digest()
        classes = index[48 : 48 + n]
        columns = [struct.unpack_from(f"<{n}I", index, 48 + n + 4 * n * i) for i in range(4)]
        hashes = index[48 + 17 * n :]
        for frame, (offset, stored, length, pages) in enumerate(zip(*columns, strict=True)):
            kind, plain = pack.frame(frame)
            prefix = struct.unpack_from("<II", pack.data, offset)
            assert prefix == (stored | kind << 31, length)
            assert (offset, length, classes[frame]) == (pack.places[frame], len(plain), kind)
            cut = [plain[at : at + PAGE] for at in range(0, len(plain), PAGE)] if kind == 0 else []
            assert len(cut) == pages
            own = [blake3(page, key=keys.page_hash_key).digest()[:8] for page in cut]
            assert hashes[: 8 * pages] == b"".join(own)
            hashes = hashes[8 * pages :]
        assert hashes == b""


def test_wal_comes_back_and_its_header_tells_it_without_a_key(made: Made) -> None:
    _, objects, keys = made
    for name, content in WAL.items():
        one = Envelope(objects[f"main/{SYSTEM}/wal/{name[:16]}/{name}"], keys, kind=3)
        pieces = one.content(0)
        assert b"".join(pieces) == content
        assert [len(piece) for piece in pieces[:-1]] == [4 << 20] * (len(pieces) - 1)
        header = one.header
        assert (header["name"], header["size"], header["ancestors"]) == (name, len(content), None)
        salted = bytes.fromhex(header["salt"]) + content
        assert header["blake3"] == blake3(salted).hexdigest()
        assert {"kind", "modified", "pushed", "host"} <= set(header)


def test_a_history_file_tells_its_ancestors_without_a_key(made: Made) -> None:
    _, objects, keys = made
    one = Envelope(objects[f"main/{SYSTEM}/history/00000002.history"], keys, kind=3)
    assert one.content(0) == [HISTORY]
    assert one.header["ancestors"] == [[1, "0/580000"]]
    assert one.header["kind"] == "history"


def test_the_fingerprint_is_the_one_that_hosts_pin(made: Made) -> None:
    repository, _, keys = made
    assert keys.fingerprint == repository.identity.fingerprint


def test_the_cluster_has_its_system_record(made: Made) -> None:
    _, objects, _ = made
    members = record(objects["main/systems/00000001"], "system")
    assert members["system_identifier"] == str(SYSTEM)
    assert (members["postgres_major"], members["reason"]) == (18, "first")


def test_a_host_opens_the_metadata_secret_with_its_own_key(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    store = repository.store
    keys = Keys({info.key: store.get(info.key) for info in store.list()}, identity)
    secret, public = age.generate_identity()
    add_host(
        store,
        repository.identity,
        metadata_secret=str(keys.secrets[1]),
        name="db",
        public=public,
        at=AT,
        by=BY,
    )
    members = record(store.get("pgkeep/keys/00000002"), "keys")
    (host,) = members["hosts"]
    assert (host["name"], host["public"]) == ("db", public)
    opener = pyrage.x25519.Identity.from_str(secret)
    opened = pyrage.decrypt(host["metadata_secret"].encode(), [opener])
    assert opened.decode() == str(keys.secrets[1])
    assert members["fingerprint"] == keys.fingerprint


def test_every_object_lies_where_the_page_says(made: Made) -> None:
    """Section 1 names every key that there is."""
    _, objects, _ = made
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    listed = page[page.index("```\n") + 4 :]
    listed = re.sub(r", pgkeep/", "  \npgkeep/", listed[: listed.index("```")])
    words = [re.split(r"  +", line)[0] for line in listed.splitlines()]
    placeholders = {
        "<number>": r"\d{8}",
        "<number 20>": r"\d{20}",
        "<attempt>": "[0-9a-f]{32}",
        "<backup>": r"\d{8}T\d{6}Z",
        "<system>": r"\d+",
        "<16 hex>": "[0-9A-F]{16}",
    }
    patterns = [re.sub("<.*?>", lambda m: placeholders.get(m[0], "[^/]+"), word) for word in words]
    assert len(patterns) > 20
    for key in objects:
        assert any(re.fullmatch(pattern, key) for pattern in patterns), key
