"""A reader of repositories, written from docs/format.md and from nothing else of ours.

It takes nothing on trust: hashes of objects, authentication of frames, hashes of pages, order
and coverage of extents are checked wherever it comes by. So a test that reads a backup with it
has checked the format too.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import pyrage
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pgkeep.storage.interface import Store

HOLE = 0xFFFFFFFF
PACK, MANIFEST = 1, 2
DATA, METADATA = 0, 1

_HEADER = struct.Struct("<6sBBBBHI16s16sHHI")
_TRAILER = struct.Struct("<QII32s")


class Envelope:
    """One object, whole, with the keys that open it."""

    def __init__(self, data: bytes, keys: Keys, *, kind: int) -> None:
        fields = _HEADER.unpack_from(data)
        magic, zero, version, found, self.sealing, _, length = fields[:7]
        self.repository, self.object_id, d, m, _ = fields[7:]
        assert (magic, zero, version, found) == (b"PGKEEP", 0, 1, kind)
        assert self.repository == keys.repository_id
        assert self.sealing == keys.sealing
        self.data, self.kind, self._keys = data, kind, keys
        self.header = json.loads(data[56 : 56 + length])
        at = 56 + length
        plain = data[:32] + bytes(16) + data[48 : at + d + m]
        assert blake3(plain).digest()[:16] == self.object_id
        self.sealed_keys = (data[at : at + d], data[at + d : at + d + m])
        self.index_offset, self.frames, _, self.digest = _TRAILER.unpack(data[-48:])
        assert blake3(data[:-32]).digest() == self.digest
        self.places = self._find_frames(at + d + m)

    def _find_frames(self, at: int) -> list[int]:
        places = []
        while at < len(self.data) - 48:
            places.append(at)
            at += 8 + (struct.unpack_from("<I", self.data, at)[0] & 0x7FFFFFFF)
        assert at == len(self.data) - 48
        assert len(places) == self.frames
        return places

    def frame(self, number: int) -> bytes:
        at = self.places[number]
        first, plain = struct.unpack_from("<II", self.data, at)
        stored, kind = first & 0x7FFFFFFF, first >> 31
        packed = self.data[at + 8 : at + 8 + stored]
        if self.sealing:
            bound = (
                b"pgkeep1\0"
                + self.repository
                + bytes([self.kind, kind, number == self.frames - 1, 0, 0, 0, 0, 0])
                + self.object_id
                + struct.pack("<Q", number)
            )
            nonce = bytes(4) + struct.pack(">Q", number)
            key = self._keys.unwrap(self.sealed_keys[kind], kind)
            packed = AESGCM(key).decrypt(nonce, packed, bound)
        content = zstandard.ZstdDecompressor().decompress(packed)
        assert len(content) == plain == zstandard.frame_content_size(packed)
        return content


class Keys:
    """Section 2: the repository's identity, and its secrets opened by a user's."""

    def __init__(self, store: Store, *, identity: str = "", passphrase: str = "") -> None:
        record = _record(store.get("pgkeep/repository"))
        self.repository_id = bytes.fromhex(record["id"])
        self.sealing = int(record["sealing"] == "age")
        self._secrets: tuple[Any, ...] = ()
        if not self.sealing:
            self.hash_material = bytes.fromhex(record["hash_salt"])
            return
        found = sorted(info.key for info in store.list("pgkeep/keys/"))
        records = [_record(store.get(key)) for key in found]
        keys = [keys for keys in records if keys["repository"] == record["id"]][-1]
        sealed = keys["repository_secret"].encode()
        if passphrase:
            text = pyrage.passphrase.decrypt(sealed, passphrase).decode()
        else:
            text = pyrage.decrypt(sealed, [_secret(identity)]).decode()
        inner = keys["metadata_secret"].encode()
        metadata = pyrage.decrypt(inner, [_secret(text)]).decode()
        self.hash_material = metadata.encode()
        self._secrets = (_secret(text), _secret(metadata))
        publics = [str(secret.to_public()) for secret in self._secrets]
        assert publics == [keys["repository_public"], keys["metadata_public"]]

    @lru_cache(maxsize=256)  # noqa: B019
    def unwrap(self, sealed: bytes, kind: int) -> bytes:
        return pyrage.decrypt(sealed, [self._secrets[kind]])

    @property
    def page_hash_key(self) -> bytes:
        context = "pgkeep 2026-11-20 page hash"
        return blake3(self.hash_material, derive_key_context=context).digest()


class File(NamedTuple):
    """A row of ``files`` and its map."""

    row: dict[str, Any]
    size: int
    frames: list[tuple[int, int, int, int, int]]
    extents: list[tuple[int, int, int, int]]
    failed: list[int]
    packs: list[tuple[bytes, int]]
    page_size: int


class ReadBackup:
    """One backup: ``head``, ``facts``, ``files`` by path, and their content."""

    def __init__(
        self, store: Store, root: str, backup: str, *, identity: str = "", passphrase: str = ""
    ) -> None:
        self._store, self._root = store, root
        self._keys = Keys(store, identity=identity, passphrase=passphrase)
        keys = [f"{root}{folder}/{backup}" for folder in ("manifests", "manifests-copy")]
        data, *same = [store.get(key) for key in keys if store.exists(key)]
        assert same in ([], [data])
        manifest = Envelope(data, self._keys, kind=MANIFEST)
        self.head = json.loads(manifest.frame(0))
        assert self.head["backup"] == manifest.header["backup"] == backup
        self._body = sqlite3.connect(":memory:")
        pieces = [manifest.frame(number) for number in range(1, manifest.frames)]
        self._body.deserialize(b"".join(pieces))
        self._body.row_factory = sqlite3.Row
        self.facts = {row["name"]: json.loads(row["value"]) for row in self._rows("facts")}
        self.directories = {_path(row["path"]): row["mode"] for row in self._rows("directories")}
        self.links = {_path(row["path"]): _path(row["target"]) for row in self._rows("links")}
        self.tablespaces = {row["oid"]: _path(row["location"]) for row in self._rows("tablespaces")}
        self._packs = {row["id"]: dict(row) for row in self._rows("packs")}
        self.files = {_path(row["path"]): self._file(dict(row)) for row in self._rows("files")}

    def content(self, path: str) -> bytes:
        """The bytes of a file, every check applied."""
        file = self.files[path]
        result = bytearray(file.size)
        end = 0
        for first, pages, frame, page_in_frame in file.extents:
            assert first == end, "extents leave a gap, or overlap"
            end = first + pages
            if frame != HOLE:
                plain = self._frame(file, frame)
                size = file.page_size
                piece = plain[page_in_frame * size : (page_in_frame + pages) * size]
                wanted = min(pages * size, file.size - first * size)
                assert len(piece) == wanted, "an extent is not covered by its frame"
                result[first * size : first * size + wanted] = piece
        assert end == -(-file.size // file.page_size)
        return bytes(result)

    def packs(self) -> Iterator[Envelope]:
        """Every pack of the backup, opened and checked against its row."""
        for row in self._packs.values():
            yield self._pack(row["attempt"], row["number"])

    def check_everything(self) -> None:
        """Read every file and every index."""
        for path in self.files:
            self.content(path)
        for pack in self.packs():
            self._check_hashes(pack)

    def _rows(self, table: str) -> list[Any]:
        return self._body.execute(f"SELECT * FROM {table}").fetchall()

    def _file(self, row: dict[str, Any]) -> File:
        pack = self._packs[row["map_pack"]]
        envelope = self._pack(pack["attempt"], pack["number"])
        assert envelope.places[row["map_frame"]] == row["map_offset"]
        stored = struct.unpack_from("<I", envelope.data, row["map_offset"])[0]
        assert stored == row["map_stored"] | 1 << 31
        maps = self._maps((pack["attempt"], pack["number"]), row["map_frame"])
        path, rest = maps[row["map_slot"]]
        assert path == _path(row["path"])
        file = File(row, *rest)
        assert file.size == row["size_bytes"]
        assert len(file.failed) == row["failed_pages"]
        return file

    def _frame(self, file: File, number: int) -> bytes:
        pack, frame, offset, stored, plain = file.frames[number]
        envelope = self._pack(*file.packs[pack])
        assert envelope.places[frame] == offset
        assert struct.unpack_from("<II", envelope.data, offset) == (stored, plain)
        return self._plain_frame(file.packs[pack], frame)

    @lru_cache(maxsize=128)  # noqa: B019
    def _plain_frame(self, pack: tuple[bytes, int], frame: int) -> bytes:
        return self._pack(*pack).frame(frame)

    @lru_cache(maxsize=8)  # noqa: B019
    def _maps(self, pack: tuple[bytes, int], frame: int) -> list[tuple[str, tuple[Any, ...]]]:
        return _map_block(self._plain_frame(pack, frame))

    @lru_cache(maxsize=8)  # noqa: B019
    def _pack(self, attempt: bytes, number: int) -> Envelope:
        data = self._store.get(f"{self._root}packs/{attempt.hex()}/{number:08d}")
        pack = Envelope(data, self._keys, kind=PACK)
        assert pack.header == {"attempt": attempt.hex(), "number": number}
        rows = [r for r in self._packs.values() if (r["attempt"], r["number"]) == (attempt, number)]
        assert len(rows) == 1, "a pack that is used has one row in the manifest"
        row = rows[0]
        assert row["size_bytes"] == len(data)
        assert (row["blake3"], row["object_id"]) == (pack.digest, pack.object_id)
        assert (row["data_key"], row["metadata_key"]) == pack.sealed_keys
        return pack

    def _check_hashes(self, pack: Envelope) -> None:
        """Section 4: the index tells every frame's place, and the hash of each of its pages."""
        assert pack.index_offset == pack.places[-1]
        index = pack.frame(pack.frames - 1)
        magic, page_size, n, kind = struct.unpack_from("<4sIIB", index)
        shown = index[16:48]
        assert (magic, n) == (b"PKI1", pack.frames - 1)
        key = shown if kind == 2 else self._keys.page_hash_key
        assert kind == 2 or shown == blake3(key).digest()
        classes = index[48 : 48 + n]
        columns = [
            struct.unpack_from(f"<{n}I", index, 48 + n + 4 * n * column) for column in range(4)
        ]
        at = 48 + 17 * n
        assert list(columns[0]) == pack.places[:-1]
        for number, pages in enumerate(columns[3]):
            plain = pack.frame(number)
            assert len(plain) == columns[2][number]
            expected = b""
            if classes[number] == DATA:
                starts = range(0, len(plain), page_size)
                pieces = [plain[start : start + page_size] for start in starts]
                expected = b"".join(blake3(piece, key=key).digest()[:8] for piece in pieces)
            assert index[at : at + 8 * pages] == expected
            at += 8 * pages
        assert at == len(index)


def _map_block(data: bytes) -> list[tuple[str, tuple[Any, ...]]]:
    """Section 6: (path, the rest of a File) by slot."""
    magic, page_size, m, p, f, e, d, b = struct.unpack_from("<4s7I", data)
    assert magic == b"MAP1"
    at = 32
    packs = [struct.unpack_from("<16sI", data, at + 20 * i) for i in range(p)]
    at += 20 * p

    def column(count: int, letter: str = "I") -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{count}{letter}", data, at)
        at += struct.calcsize(f"<{count}{letter}")
        return values

    sizes = column(m, "Q")
    firsts = [(*column(m), end) for end in (f, e, d)]
    frames = [*zip(*(column(f) for _ in range(5)), strict=True)]
    extents = [*zip(*(column(e) for _ in range(4)), strict=True)]
    failed = column(d)
    paths = data[at:].split(b"\0")
    assert at + b == len(data)
    assert paths.pop() == b""
    result = []
    for slot in range(m):
        cut = [slice(ends[slot], ends[slot + 1]) for ends in firsts]
        rest = (sizes[slot], frames[cut[0]], extents[cut[1]], list(failed[cut[2]]))
        path = paths[slot].decode("utf-8", "surrogateescape")
        result.append((path, (*rest, packs, page_size)))
    return result


def _record(data: bytes) -> Mapping[str, Any]:
    line, _, tail = data.partition(b"\n")
    assert tail == b"blake3 " + blake3(line + b"\n").hexdigest().encode() + b"\n"
    return json.loads(line)


def _secret(text: str) -> Any:
    return pyrage.x25519.Identity.from_str(text)


def _path(text: str) -> str:
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode())
    return raw.decode("utf-8", "surrogateescape")
