"""A reader of repositories, written from docs/format.md alone. Nothing of pgkeep is used here."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Mapping
from typing import Any

import pyrage
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.repository.kit import SYSTEM

PAGE = 8192


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
