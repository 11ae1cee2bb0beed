#!/usr/bin/env python3
"""Restore a pgkeep repository that lies in a directory, without pgkeep.

    python3 rescue.py list DIR
    python3 rescue.py restore DIR BACKUP INTO
    python3 rescue.py wal DIR INTO

DIR is the repository, or a download of it (``aws s3 sync s3://bucket/prefix DIR``). Sealed ones
want ``--identity FILE`` (what age-keygen wrote, or an SSH key) or the passphrase.

Needed: Python 3.9 or newer, ``zstandard`` (Python 3.14 brings it), and for sealed repositories
``cryptography``; the program ``age`` for SSH keys and plugins only. Run it as the user who is to
start PostgreSQL.

It is written from docs/format.md of pgkeep, version 1 of the format, and imports nothing of pgkeep.
What it checks: sealed frames are authenticated, and bound to their object and place; plain frames
by the checksum of zstd. The hashes of plain headers, records and whole objects are BLAKE3, which
Python lacks: they are checked where the module ``blake3`` is installed. Without it, and not sealed,
only damage is found, and no forgery. What it does not do: parts of WAL segments that were not full
yet (tails), a target in time (edit postgresql.auto.conf for that before the first start), page
checksums (``pg_checksums --check`` does that once recovery is over).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import getpass
import hashlib
import hmac
import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESCUE_VERSION = 1
FORMAT_VERSION = 1

MANIFEST, WAL = 2, 3
DATA, METADATA = 0, 1
HOLE = 0xFFFFFFFF
MAX_PLAIN = (64 << 20, 256 << 20)
MAX_HEADER, MAX_RECORD, MAX_BODY = 1 << 20, 16 << 20, 4 << 30
COPIED = "pgkeep_wal"
SEGMENT_NAME = re.compile(r"[0-9A-F]{24}")
HISTORY_NAME = re.compile(r"[0-9A-F]{8}\.history")
BACKUP_NAME = re.compile(r"\d{8}T\d{6}Z")


class RescueError(Exception):
    """What a person has to know: one text, with what to do."""

    code = 1


class Newer(RescueError):
    """Written by a newer pgkeep."""

    code = 62

    def __init__(self, what: object, version: object) -> None:
        super().__init__(
            f"{what} has format version {version}, and this script reads {FORMAT_VERSION}. "
            "Take the pgkeep/rescue.py of this repository, or upgrade pgkeep."
        )


class Damaged(RescueError):
    """Bytes that are not what the format says."""

    code = 60

    def __init__(self, what: object, why: str) -> None:
        super().__init__(f"{what} is damaged: {why}. Bring it back from another copy.")


def need(condition: object, what: object, why: str) -> None:
    """Raise ``Damaged`` unless a condition holds."""
    if not condition:
        raise Damaged(what, why)


def blake3_of(*pieces: bytes) -> bytes | None:
    """BLAKE3 of all pieces; None without the module."""
    try:
        from blake3 import blake3
    except ImportError:
        return None
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return bytes(hasher.digest())


# -- age -----------------------------------------------------------------------------------------


def hkdf(material: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    inner = hmac.new(salt or bytes(32), material, hashlib.sha256).digest()
    return hmac.new(inner, info + b"\x01", hashlib.sha256).digest()


def chacha_open(key: bytes, nonce: bytes, data: bytes) -> bytes | None:
    """ChaCha20-Poly1305; None if it does not open."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    with contextlib.suppress(InvalidTag, ValueError):
        return ChaCha20Poly1305(key).decrypt(nonce, data, b"")
    return None


def unpadded(text: str) -> bytes:
    """Base64 without its padding."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def bech32_secret(text: str) -> bytes:
    """The 32 bytes of ``AGE-SECRET-KEY-1…``."""
    low = text.strip().lower()
    human, _, coded = low.rpartition("1")
    values = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".find(letter) for letter in coded]
    check = 1
    spread = [ord(c) >> 5 for c in human] + [0] + [ord(c) & 31 for c in human]
    for value in spread + values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, part in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= part if top >> bit & 1 else 0
    if human != "age-secret-key-" or -1 in values or len(values) != 58 or check != 1:
        raise RescueError("The text of a secret key is not a whole AGE-SECRET-KEY-1….")
    number = 0
    for value in values[:-6]:
        number = number << 5 | value
    return (number >> 4).to_bytes(32, "big")


class AgeFile:
    """One age file: its stanzas, and what follows."""

    def __init__(self, data: bytes, what: object) -> None:
        self.raw, self.what = data, what
        if data.lstrip().startswith(b"-----BEGIN AGE"):
            lines = data.decode("ascii", "replace").split()
            inside = [line for line in lines if not line.startswith("---") and "AGE" not in line]
            joined = "".join(line for line in inside if line not in ("ENCRYPTED", "FILE-----"))
            data = base64.b64decode(joined)
        end = data.find(b"\n--- ")
        stop = data.find(b"\n", end + 1)
        need(data.startswith(b"age-encryption.org/v1\n") and end > 0 < stop, what, "no age file")
        self.signed = data[: end + 4]
        self.mac = unpadded(data[end + 5 : stop].decode("ascii", "replace"))
        self.payload = data[stop + 1 :]
        self.stanzas: list[tuple[list[str], bytes]] = []
        for part in data[:end].decode("ascii", "replace").split("\n-> ")[1:]:
            first, _, body = part.partition("\n")
            self.stanzas.append((first.split(), unpadded(body.replace("\n", ""))))

    def with_secret(self, secret: bytes) -> bytes | None:
        """The content, opened by an X25519 secret; None if it is not sealed to it."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import (
            X25519PrivateKey,
            X25519PublicKey,
        )

        private = X25519PrivateKey.from_private_bytes(secret)
        own = private.public_key().public_bytes_raw()
        for words, body in self.stanzas:
            if words[0] != "X25519" or len(words) != 2:
                continue
            share = unpadded(words[1])
            shared = private.exchange(X25519PublicKey.from_public_bytes(share))
            key = chacha_open(
                hkdf(shared, share + own, b"age-encryption.org/v1/X25519"), bytes(12), body
            )
            if key is not None:
                return self._content(key)
        return None

    def with_passphrase(self, passphrase: str) -> bytes | None:
        """The content, opened by a passphrase; None if it is another one."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        for words, body in self.stanzas:
            if words[0] == "scrypt" and len(words) == 3 and int(words[2]) <= 22:
                salt = b"age-encryption.org/v1/scrypt" + unpadded(words[1])
                wrap = Scrypt(salt, 32, 1 << int(words[2]), 8, 1).derive(passphrase.encode())
                key = chacha_open(wrap, bytes(12), body)
                if key is not None:
                    return self._content(key)
        return None

    def with_program(self, identity: Path) -> bytes | None:
        """The content, opened by the program ``age``; None if it does not open it."""
        if shutil.which("age") is None:
            raise RescueError(f"{identity} needs the program age, which is not installed.")
        command = ["age", "--decrypt", "--identity", str(identity)]
        done = subprocess.run(command, input=self.raw, stdout=subprocess.PIPE, check=False)
        return done.stdout if done.returncode == 0 else None

    def _content(self, file_key: bytes) -> bytes:
        mac = hmac.new(hkdf(file_key, b"", b"header"), self.signed, hashlib.sha256).digest()
        need(hmac.compare_digest(mac, self.mac), self.what, "the header of an age file is forged")
        key = hkdf(file_key, self.payload[:16], b"payload")
        chunks = self.payload[16:]
        size = (64 << 10) + 16
        pieces = [chunks[at : at + size] for at in range(0, len(chunks), size)]
        result = b""
        for number, piece in enumerate(pieces):
            last = b"\x01" if number == len(pieces) - 1 else b"\x00"
            plain = chacha_open(key, number.to_bytes(11, "big") + last, piece)
            need(plain is not None, self.what, "an age file does not open")
            result += plain or b""
        return result


class Opener:
    """What a person gave: secrets from an identity file, or a passphrase."""

    def __init__(self, identity: str | None, passphrase_file: str | None) -> None:
        self._file = Path(identity) if identity else None
        self._passphrase_file = passphrase_file

    def open(self, text: str, *, passphrase: bool) -> bytes:
        """The content of the armored file that holds the repository secret."""
        sealed = AgeFile(text.encode(), "the repository's secret key")
        if passphrase:
            found = sealed.with_passphrase(self._ask())
        elif self._file is None:
            raise RescueError("The repository is sealed: give --identity FILE.")
        else:
            found = self._by_identity(sealed, self._file)
        if found is None:
            given = "the passphrase" if passphrase else str(self._file)
            raise RescueError(f"{given} does not open this repository.")
        return found

    def _by_identity(self, sealed: AgeFile, path: Path) -> bytes | None:
        lines = path.read_bytes().decode("ascii", "replace").split("\n")
        for line in lines:
            if line.strip().upper().startswith("AGE-SECRET-KEY-1"):
                found = sealed.with_secret(bech32_secret(line))
                if found is not None:
                    return found
        plain = all(not s.strip() or s[0] == "#" or s[:15] == "AGE-SECRET-KEY-" for s in lines)
        return None if plain else sealed.with_program(path)

    def _ask(self) -> str:
        if self._passphrase_file is not None:
            return Path(self._passphrase_file).read_text(encoding="utf-8").rstrip("\r\n")
        return getpass.getpass("Passphrase of the repository: ")


# -- the repository ------------------------------------------------------------------------------


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Section 2 of the format: one JSON line and its hash."""
    need(path.stat().st_size <= MAX_RECORD, path, "it is too large")
    line, _, rest = path.read_bytes().partition(b"\n")
    digest = blake3_of(line + b"\n")
    if digest is not None:
        need(rest == b"blake3 " + digest.hex().encode() + b"\n", path, "its hash is another one")
    try:
        record = json.loads(line)
        version, found = int(record["pgkeep"]), record["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(path, "it is no record") from error
    if version > FORMAT_VERSION:
        raise Newer(path, version)
    need(found == kind, path, f"it is no record of type {kind}")
    return dict(record)


class Repository:
    """Who it is, and the secrets that open it, the present pair first."""

    def __init__(self, place: Path, opener: Opener, *, locked: bool = False) -> None:
        self.place = place
        path = place / "pgkeep" / "repository"
        if not path.is_file():
            raise RescueError(f"{place} is no pgkeep repository: pgkeep/repository is missing.")
        own = read_record(path, "repository")
        self.id = bytes.fromhex(own["id"])
        self.sealed = own["sealing"] != "none"
        self.secrets: list[tuple[bytes, bytes]] = []
        if self.sealed and not locked:
            try:
                import cryptography  # noqa: F401
            except ImportError as error:
                raise RescueError("Install cryptography: the repository is sealed.") from error
            self._open(own["id"], opener)

    def _open(self, repository_id: str, opener: Opener) -> None:
        numbers = sorted((self.place / "pgkeep" / "keys").glob("[0-9]" * 8))
        records = [read_record(path, "keys") for path in numbers]
        own = [keys for keys in records if keys["repository"] == repository_id]
        need(own, self.place / "pgkeep" / "keys", "no record of keys is this repository's")
        keys = own[-1]
        opened = opener.open(keys["repository_secret"], passphrase=bool(keys["passphrase"]))
        secret = bech32_secret(opened.decode("ascii", "replace"))
        self.secrets.append((secret, self._inner(keys["metadata_secret"], secret)))
        for pair in keys.get("previous", ()):
            present = self.secrets[0]
            self.secrets.append(
                (
                    self._inner(pair["repository_secret"], present[DATA]),
                    self._inner(pair["metadata_secret"], present[METADATA]),
                )
            )

    def _inner(self, text: str, secret: bytes) -> bytes:
        found = AgeFile(text.encode(), "a record of keys").with_secret(secret)
        if found is None:
            raise Damaged("a record of keys", "a secret in it does not open")
        return bech32_secret(found.decode("ascii", "replace"))

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def unwrap(self, sealed: bytes, kind: int, what: object) -> bytes:
        """An object's key of a class."""
        file = AgeFile(sealed, what)
        for pair in self.secrets:
            key = file.with_secret(pair[kind])
            if key is not None and len(key) == 32:
                return key
        raise Damaged(what, "its key is sealed to another repository")


class Bound(NamedTuple):
    """What the frames of one object are bound to, and the keys that open them."""

    what: Path
    kind: int
    object_id: bytes
    keys: tuple[bytes, bytes]


def unpack(packed: bytes, size: int, what: object) -> bytes:
    """One zstd frame with its size and checksum."""
    need(packed[:4] == b"\x28\xb5\x2f\xfd" and len(packed) > 5, what, "a frame is not zstd")
    need(packed[4] & 4, what, "a frame has no checksum")
    try:
        import zstandard
    except ImportError:
        return _unpack_with_library(packed, size, what)
    try:
        need(zstandard.frame_content_size(packed) == size, what, "a frame has another size")
        stream = zstandard.ZstdDecompressor().decompressobj()
        plain = stream.decompress(packed)
        # Typed without it, and there: what follows the frame.
        rest = getattr(stream, "unused_data", b"")
    except zstandard.ZstdError as error:
        raise Damaged(what, f"a frame does not unpack ({error})") from error
    need(len(plain) == size and not rest, what, "a frame has another size")
    return plain


def _unpack_with_library(packed: bytes, size: int, what: object) -> bytes:
    try:
        import importlib

        library = importlib.import_module("compression.zstd")
    except ImportError as error:
        raise RescueError("Install zstandard (pip install zstandard).") from error
    stream = library.ZstdDecompressor()
    try:
        plain = bytes(stream.decompress(packed, size + 1))
    except library.ZstdError as error:
        raise Damaged(what, f"a frame does not unpack ({error})") from error
    need(len(plain) == size and stream.eof and not stream.unused_data, what, "another size")
    return plain


class Frames:
    """Opens frames of the repository's objects."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def open(self, bound: Bound, number: int, prefixed: bytes, *, kind: int, last: bool) -> bytes:
        """A frame with its prefix of 8 bytes; authenticated or, not sealed, with its checksum."""
        what = bound.what
        need(len(prefixed) >= 8, what, "it ends too early")
        first, plain = struct.unpack_from("<II", prefixed)
        stored = first & 0x7FFFFFFF
        need(first >> 31 == kind, what, f"frame {number} is of another class")
        need(len(prefixed) == 8 + stored, what, "it ends too early")
        need(plain <= MAX_PLAIN[kind], what, f"frame {number} is too large")
        packed = prefixed[8:]
        if self.repository.sealed:
            packed = self._decrypt(bound, number, packed, kind=kind, last=last)
        return unpack(packed, plain, what)

    def _decrypt(self, bound: Bound, number: int, packed: bytes, *, kind: int, last: bool) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        place = (
            b"pgkeep1\0"
            + self.repository.id
            + bytes([bound.kind, kind, last, 0, 0, 0, 0, 0])
            + bound.object_id
            + struct.pack("<Q", number)
        )
        key = self.repository.unwrap(bound.keys[kind], kind, bound.what)
        try:
            return AESGCM(key).decrypt(bytes(4) + struct.pack(">Q", number), packed, place)
        except (InvalidTag, ValueError) as error:
            raise Damaged(bound.what, f"frame {number} is not authentic") from error


class Envelope:
    """Section 3: one whole object."""

    def __init__(self, path: Path, frames: Frames, kind: int) -> None:
        data = path.read_bytes()
        need(len(data) >= 56 + 48 and data[:7] == b"PGKEEP\0", path, "it is no pgkeep object")
        if data[7] > FORMAT_VERSION:
            raise Newer(path, data[7])
        repository = frames.repository
        need(data[8] == kind, path, "it is of another type")
        need(data[9] == int(repository.sealed), path, "it is sealed in another way")
        need(data[16:32] == repository.id, path, "it is of another repository")
        length, d, m = struct.unpack_from("<I32xHH", data, 12)
        end = 56 + length + d + m
        need(length <= MAX_HEADER and end <= len(data) - 48, path, "its header is too long")
        digest = blake3_of(data[:32], bytes(16), data[48:end])
        need(digest is None or digest[:16] == data[32:48], path, "its header was changed")
        digest = blake3_of(data[:-32])
        need(digest is None or digest == data[-32:], path, "its hash is another one")
        self.header = parse_object(data[56 : 56 + length], path)
        keys = (data[56 + length : 56 + length + d], data[56 + length + d : end])
        self.bound = Bound(path, kind, data[32:48], keys)
        self._data, self._frames, self._at = data, frames, end
        (self.count,) = struct.unpack_from("<I", data, len(data) - 40)

    def frames(self, kind: int) -> Iterator[bytes]:
        """All frames in order."""
        at, number, end = self._at, 0, len(self._data) - 48
        need(at < end, self.bound.what, "it has no frame")
        while at < end:
            need(at + 8 <= end, self.bound.what, "it ends too early")
            (first,) = struct.unpack_from("<I", self._data, at)
            after = at + 8 + (first & 0x7FFFFFFF)
            need(after <= end, self.bound.what, "it ends too early")
            piece = self._data[at:after]
            yield self._frames.open(self.bound, number, piece, kind=kind, last=after == end)
            at, number = after, number + 1
        need(number == self.count, self.bound.what, "frames are missing")


def parse_object(data: bytes, what: object) -> dict[str, Any]:
    """A JSON object from hostile bytes."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(what, "its JSON does not parse") from error
    need(isinstance(found, dict), what, "its JSON is no object")
    return dict(found)


# -- backups -------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A backup's folder ``<cluster>/<system>`` and name."""

    system: Path
    backup: str

    @property
    def shown(self) -> str:
        return f"{self.system.parent.name}/{self.system.name}/{self.backup}"

    def paths(self) -> list[Path]:
        """Of the manifest and its copy, those that are there."""
        both = (self.system / folder / self.backup for folder in ("manifests", "manifests-copy"))
        return [path for path in both if path.is_file()]

    @property
    def is_void(self) -> bool:
        return (self.system / "voids" / self.backup).exists()


def find_systems(place: Path) -> list[Path]:
    """All ``<cluster>/<system>`` folders."""
    found = (path for path in place.glob("*/*") if path.is_dir() and path.name.isdecimal())
    return sorted(path for path in found if path.parent.name != "pgkeep")


def find_backups(place: Path) -> list[Place]:
    """All backups, void ones too."""
    found = set()
    for system in find_systems(place):
        for folder in ("manifests", "manifests-copy"):
            paths = system.glob(f"{folder}/*")
            found |= {
                Place(system, path.name) for path in paths if BACKUP_NAME.fullmatch(path.name)
            }
    return sorted(found, key=lambda one: one.shown)


def read_manifest(place: Place, frames: Frames) -> tuple[dict[str, Any], Iterator[bytes], Path]:
    """Head, body and path of a manifest, from its copy if need be."""
    problems = []
    for path in place.paths():
        try:
            envelope = Envelope(path, frames, MANIFEST)
            pieces = envelope.frames(METADATA)
            head = parse_object(next(pieces), path)
            system, backup = place.system, place.backup
            is_here = (
                str(head.get("cluster")),
                str(head.get("system_identifier")),
                head.get("backup"),
                envelope.header.get("backup"),
            ) == (system.parent.name, system.name, backup, backup)
            need(is_here, path, "it is another backup's")
            # All of it, now: a damaged end must lead to the copy, too.
            return head, iter([*pieces]), path
        except (Damaged, OSError) as error:
            problems.append(error)
    raise RescueError(
        f"Neither manifest of {place.shown} can be read. " + " ".join(str(one) for one in problems)
    )


def unescape(text: str) -> bytes:
    """A path as bytes (section 7: ``\\xNN``)."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode())


def safe_relative(path: bytes, what: object) -> bytes:
    """A path that stays below where it is put."""
    parts = path.split(b"/")
    wrong = b"\0" in path or any(part in (b"", b".", b"..") for part in parts)
    need(not wrong, what, f"the path {path!r} is none below a directory")
    return path


class Map(NamedTuple):
    """Section 6: where the bytes of one file are."""

    path: bytes
    size: int
    page_size: int
    packs: list[tuple[bytes, int]]
    frames: list[tuple[int, ...]]
    extents: list[tuple[int, ...]]


def parse_maps(data: bytes, what: object) -> list[Map]:
    """All maps of a block."""
    try:
        return _parse_maps(data, what)
    except (struct.error, IndexError) as error:
        raise Damaged(what, "a map block does not parse") from error


def _parse_maps(data: bytes, what: object) -> list[Map]:
    magic, page_size, m, p, f, e, d, b = struct.unpack_from("<4s7I", data)
    need(magic == b"MAP1" and page_size, what, "a map block has another beginning")
    at = 32

    def column(count: int, letter: str = "I") -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{count}{letter}", data, at)
        at += struct.calcsize(f"<{count}{letter}")
        return values

    packs = [struct.unpack_from("<16sI", data, at + 20 * i) for i in range(p)]
    at += 20 * p
    sizes = column(m, "Q")
    first_frames, first_extents = (*column(m), f), (*column(m), e)
    column(m)
    frames = list(zip(*(column(f) for _ in range(5))))
    extents = list(zip(*(column(e) for _ in range(4))))
    column(d)
    paths = data[at:].split(b"\0")
    need(at + b == len(data) and paths.pop() == b"" and len(paths) == m, what, "paths are cut off")
    return [
        Map(
            paths[i],
            sizes[i],
            page_size,
            packs,
            frames[first_frames[i] : first_frames[i + 1]],
            extents[first_extents[i] : first_extents[i + 1]],
        )
        for i in range(m)
    ]


class Backup:
    """One backup: ``head``, and the content of its files."""

    def __init__(self, place: Place, frames: Frames) -> None:
        if place.is_void:
            raise RescueError(
                f"{place.shown} is void: the run that made it declared it incomplete. "
                "Take another backup."
            )
        if not place.paths():
            raise RescueError(f"There is no backup {place.shown}.")
        self.place, self._frames = place, frames
        self.head, pieces, self.what = read_manifest(place, frames)
        need(not self.head.get("partial"), self.what, "it is a partial manifest")
        handle, self._name = tempfile.mkstemp(prefix="pgkeep-rescue-")
        size = 0
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                size += len(piece)
                need(size <= MAX_BODY, self.what, "its body is too large")
                file.write(piece)
        self._body = sqlite3.connect(self._name)
        self._body.row_factory = sqlite3.Row
        self.packs = {row["id"]: row for row in self.rows("packs")}
        self._by_place = {(row["attempt"], row["number"]): row for row in self.packs.values()}

    def close(self) -> None:
        """Remove what was unpacked."""
        self._body.close()
        Path(self._name).unlink()

    def rows(self, table: str) -> list[Any]:
        """All rows of a table."""
        try:
            return self._body.execute(f"SELECT * FROM {table}").fetchall()
        except sqlite3.DatabaseError as error:
            raise Damaged(self.what, f"its table {table} does not read ({error})") from error

    def check_packs(self) -> None:
        """All packs are there with their size; not sealed, with their hash if that can be told."""
        for row in self.packs.values():
            path = self._pack_path(row)
            if not path.is_file():
                raise RescueError(f"{path} is missing. Bring it from another copy.")
            need(path.stat().st_size == row["size_bytes"], path, "it has another size")
            if self._frames.repository.sealed or blake3_of() is None:
                continue
            content = path.read_bytes()
            need(blake3_of(content[:-32]) == row["blake3"], path, "its hash is another one")

    def pieces(self, row: Any) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of a file's parts that are not zeros."""
        maps = self._maps(row["map_pack"], row["map_frame"], row["map_offset"], row["map_stored"])
        need(0 <= row["map_slot"] < len(maps), self.what, "a map is missing")
        found = maps[row["map_slot"]]
        need(found.path == unescape(row["path"]), self.what, "a map is another file's")
        need(found.size == row["size_bytes"], self.what, "a map has another size")
        end, page = 0, found.page_size
        for first, pages, frame, inside in found.extents:
            need(first == end and pages, self.what, "a map leaves a gap")
            end = first + pages
            if frame == HOLE:
                continue
            need(frame < len(found.frames), self.what, "a map names no frame")
            pack, number, offset, stored, plain = found.frames[frame]
            need(pack < len(found.packs), self.what, "a map names no pack")
            content = self._data(found.packs[pack], number, offset, stored)
            need(len(content) == plain, self.what, "a frame has another size")
            wanted = min(pages * page, found.size - first * page)
            piece = content[inside * page : inside * page + wanted]
            need(wanted > 0 and len(piece) == wanted, self.what, "a frame does not cover its pages")
            yield first * page, piece
        need(end == -(-found.size // page), self.what, "a map does not cover its file")

    def _pack_path(self, row: Any) -> Path:
        folder = self.place.system / "packs" / bytes(row["attempt"]).hex()
        return folder / f"{row['number']:08d}"

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def _maps(self, pack: int, frame: int, offset: int, stored: int) -> list[Map]:
        need(pack in self.packs, self.what, "a pack is not named")
        row = self.packs[pack]
        return parse_maps(self._read(row, frame, offset, stored, METADATA), self._pack_path(row))

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def _data(self, pack: tuple[bytes, int], frame: int, offset: int, stored: int) -> bytes:
        need(pack in self._by_place, self.what, "a pack is not named")
        return self._read(self._by_place[pack], frame, offset, stored, DATA)

    def _read(self, row: Any, frame: int, offset: int, stored: int, kind: int) -> bytes:
        path = self._pack_path(row)
        with open(path, "rb") as file:
            head = file.read(16)
            need(head[:7] == b"PGKEEP\0", path, "it is no pgkeep object")
            if head[7] > FORMAT_VERSION:
                raise Newer(path, head[7])
            file.seek(offset)
            prefixed = file.read(8 + stored)
        bound = Bound(path, 1, row["object_id"], (row["data_key"], row["metadata_key"]))
        return self._frames.open(bound, frame, prefixed, kind=kind, last=False)


# -- WAL -----------------------------------------------------------------------------------------


def parse_lsn(text: str) -> int:
    """``16/B374D848`` as a number."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


class Archive:
    """The WAL of one system."""

    def __init__(self, system: Path, frames: Frames) -> None:
        self.system, self._frames = system, frames

    def segments(self) -> set[str]:
        """Names of all full segments."""
        paths = (self.system / "wal").glob("*/*")
        return {p.name for p in paths if SEGMENT_NAME.fullmatch(p.name) and _in_place(p)}

    def histories(self) -> list[str]:
        """Names of all history files."""
        paths = (self.system / "history").glob("*")
        return sorted(p.name for p in paths if HISTORY_NAME.fullmatch(p.name))

    def read(self, name: str) -> bytes:
        """The plain bytes of a file."""
        folder = "history" if name.endswith(".history") else f"wal/{name[:16]}"
        path = self.system / folder / name
        envelope = Envelope(path, self._frames, WAL)
        need(envelope.header.get("name") == name, path, "it is another file's")
        content = b"".join(envelope.frames(DATA))
        need(len(content) == envelope.header.get("size"), path, "it has another size")
        header = envelope.header
        digest = blake3_of(bytes.fromhex(str(header.get("salt"))), content)
        need(digest is None or digest.hex() == header.get("blake3"), path, "its hash is another")
        return content

    def ancestors(self, timeline: int) -> list[tuple[int, int]]:
        """From which timelines a timeline got its WAL, each with the position up to which."""
        if timeline == 1:
            return []
        name = f"{timeline:08X}.history"
        if name not in self.histories():
            raise RescueError(f"{name} is missing: the past of timeline {timeline} is not known.")
        found: list[tuple[int, int]] = []
        for line in self.read(name).decode("utf-8", "replace").split("\n"):
            words = line.split()
            if len(words) > 1 and words[0].isdecimal():
                found.append((int(words[0]), parse_lsn(words[1])))
        return found


def _in_place(path: Path) -> bool:
    return path.parent.name == path.name[:16]


class Way(NamedTuple):
    """The timeline to recover along, and its segments in order."""

    timeline: int
    segments: list[str]


def choose_timeline(archive: Archive, head: dict[str, Any], wanted: int | None) -> int:
    """The one asked for, or the only one that descends from the backup's."""
    base, stop = int(head["timeline"]), parse_lsn(head["stop_lsn"])
    pasts = {base: archive.ancestors(base) if base != 1 else []}
    for name in archive.histories():
        timeline = int(name[:8], 16)
        past = archive.ancestors(timeline)
        if any(one == base and stop <= upto for one, upto in past):
            pasts[timeline] = past
    if wanted is not None:
        if wanted not in pasts:
            raise RescueError(f"The backup is not on the way to timeline {wanted}.")
        return wanted
    parents = {one for past in pasts.values() for one, _ in past}
    ends = sorted(timeline for timeline in pasts if timeline not in parents)
    if len(ends) != 1:
        raise RescueError(
            f"Timelines {', '.join(map(str, ends))} descend from the backup's. "
            "Say with --timeline N which one is meant."
        )
    return ends[0]


def find_way(archive: Archive, head: dict[str, Any], args: argparse.Namespace) -> Way:
    """All WAL from the backup's start to the end of a timeline, without a hole."""
    size = int(head["wal_segment_size"])
    need(size >= 1 << 20 and size & (size - 1) == 0 and size <= 1 << 30, "the manifest", "WAL size")
    timeline = choose_timeline(archive, head, args.timeline)
    stored = archive.segments()
    past = [*archive.ancestors(timeline), (timeline, 1 << 64)]

    per_file = (1 << 32) // size

    def name_of(number: int) -> str:
        # The segment in which a timeline was left counts as its child's.
        own = next(one for one, upto in past if upto // size > number)
        return f"{own:08X}{number // per_file:08X}{number % per_file:08X}"

    number = parse_lsn(head["start_lsn"]) // size
    last_needed = (parse_lsn(head["stop_lsn"]) - 1) // size
    segments: list[str] = []
    while name_of(number) in stored:
        segments.append(name_of(number))
        number += 1
    missing = name_of(number)
    if number <= last_needed:
        raise RescueError(f"{missing} is missing, and the backup needs it. Take another backup.")
    numbers = {n: int(n[8:16], 16) * per_file + int(n[16:], 16) for n in stored}
    # What an old primary went on to archive after a promotion is not on the way.
    beyond = [n for n, at in numbers.items() if at > number and n == name_of(at)]
    switched = [upto for one, upto in past[:-1] if upto // size >= number]
    if (beyond or switched) and not args.stop_at_gap:
        raise RescueError(
            f"{missing} is missing, and there was WAL beyond it. Bring it from another copy, or "
            "give --stop-at-gap to recover up to there."
        )
    if switched:
        timeline = next(one for one, upto in past if upto // size > number)
    return Way(timeline, segments)


# -- writing -------------------------------------------------------------------------------------


class Target:
    """A new directory, outside of which nothing is written."""

    def __init__(self, into: Path) -> None:
        self.into = into
        self._made: set[Path] = set()

    def begin(self) -> None:
        """Make it; refuse one that holds something."""
        check_empty(self.into)
        self.into.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.into.chmod(0o700)
        self._made |= {self.into, self.into.parent}

    def place(self, relative: bytes) -> Path:
        """Where a checked relative path lies."""
        return self.into / os.fsdecode(relative)

    def directory(self, relative: bytes, mode: int) -> None:
        """Make a directory, and those above it."""
        path = self.place(relative)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode & 0o777)
        self._made.add(path)

    def write(
        self, relative: bytes, pieces: Iterator[tuple[int, bytes]], *, size: int, mode: int
    ) -> None:
        """Write a new file, durably."""
        path = self.place(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._made.add(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path, flags, 0o600)
        with os.fdopen(handle, "wb") as file:
            for offset, piece in pieces:
                file.seek(offset)
                file.write(piece)
            file.truncate(size)
            file.flush()
            os.fchmod(handle, mode & 0o777)
            os.fsync(handle)

    def whole(self, relative: str, content: bytes, mode: int = 0o600) -> None:
        """Write a new file of one piece."""
        self.write(os.fsencode(relative), iter([(0, content)]), size=len(content), mode=mode)

    def link(self, relative: bytes, place: Path) -> None:
        """The link to a tablespace."""
        path = self.place(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(place)
        self._made |= {path.parent, place, place.parent}

    def sync(self) -> None:
        """Make all names durable."""
        for path in self._made:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def check_empty(path: Path) -> None:
    """Raise unless there is nothing, or an empty directory."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RescueError(f"{path} is not empty, and was left as it is. Name a new directory.")


def place_tablespaces(backup: Backup, given: Sequence[str]) -> dict[bytes, Path]:
    """Link in the data directory to the place that was named for it."""
    wanted = dict(word.partition("=")[::2] for word in given)
    places = {}
    for row in backup.rows("links"):
        path = safe_relative(unescape(row["path"]), backup.what)
        match = re.fullmatch(rb"pg_tblspc/(\d+)", path)
        need(match, backup.what, f"the link {path!r} is no tablespace's")
        oid = match[1].decode() if match else ""
        if not wanted.get(oid):
            raise RescueError(
                f"Tablespace {oid} was in {row['target']}. Say where it goes now, a new or empty "
                f"directory: --tablespace {oid}=DIRECTORY"
            )
        places[path] = Path(os.path.abspath(wanted[oid]))  # noqa: PTH100
        check_empty(places[path])
    return places


RESTORE_COMMAND = (
    f"grep -qxF %f {COPIED}/list; case $? in 0) cp {COPIED}/%f %p || exit 200;; "
    "1) exit 1;; *) exit 200;; esac"
)


def recovery_settings(timeline: int, *, in_place: bool) -> str:
    """Lines after which the server recovers to the end, and is a copy that disturbs nobody."""
    pairs = {
        "restore_command": RESTORE_COMMAND,
        "recovery_end_command": f"rm -rf {COPIED}",
        "recovery_target": "",
        "recovery_target_name": "",
        "recovery_target_time": "",
        "recovery_target_xid": "",
        "recovery_target_lsn": "",
        "recovery_target_timeline": str(timeline),
        "recovery_target_action": "promote",
        "archive_mode": "off",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "synchronous_standby_names": "",
        "max_logical_replication_workers": "0",
        **({"allow_in_place_tablespaces": "on"} if in_place else {}),
    }
    lines = [f"{name} = '{value}'" for name, value in pairs.items()]
    return "\n# Written by pgkeep's rescue.py; the last value of a setting wins.\n" + (
        "\n".join(lines) + "\n"
    )


ADOPT = "pgkeep.adopt.conf"
ELSEWHERE = re.compile(
    r"^\s*(data_directory|config_file|hba_file|ident_file|external_pid_file|include\w*"
    r"|unix_socket_directories)\b",
    re.IGNORECASE,
)


def write_outside(target: Target, files: dict[bytes, bytes]) -> list[str]:
    """Configuration that lay outside the data directory: kept, and put where it is lacking."""
    notes = []
    for path, content in files.items():
        kept = b"pgkeep.config" + path
        target.whole(os.fsdecode(safe_relative(kept, path)), content)
        name = os.fsdecode(path.rpartition(b"/")[2])
        usual = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
        if name not in usual or (target.into / name).exists():
            continue
        lines = content.decode("utf-8", "surrogateescape").split("\n")
        if name == "postgresql.conf":
            lines = [f"#{line}" if ELSEWHERE.match(line) else line for line in lines]
        target.whole(name, "\n".join(lines).encode("utf-8", "surrogateescape"))
        notes.append(f"{name} was made from {os.fsdecode(path)}: look through it")
    return notes


# -- commands ------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line for whoever runs this."""
    sys.stdout.write(text + "\n")


def run_list(args: argparse.Namespace) -> None:
    """All backups; without the key, their names alone."""
    place = Path(args.dir)
    locked = args.identity is None and args.passphrase_file is None
    repository = Repository(place, Opener(args.identity, args.passphrase_file), locked=locked)
    frames = Frames(repository)
    readable = not repository.sealed or bool(repository.secrets)
    if not readable:
        say("Sealed: names only. Give --identity FILE or --passphrase-file FILE for more.")
    for backup in find_backups(place):
        if backup.is_void:
            say(f"{backup.shown}  void")
        elif not readable:
            say(backup.shown)
        else:
            try:
                head = read_manifest(backup, frames)[0]
            except Newer:
                raise
            except RescueError as error:
                say(f"{backup.shown}  cannot be read: {error}")
                continue
            say(
                f"{backup.shown}  {head['kind']}, ended {head['ended']}, PostgreSQL "
                f"{head['postgres']}, {head['database_bytes']} bytes, timeline {head['timeline']}, "
                f"{head['start_lsn']} to {head['stop_lsn']}, failed pages {head['failed_pages']}"
            )


def find_backup(place: Path, wanted: str) -> Place:
    """The backup of this name; ``cluster/system/name`` where the name alone is not enough."""
    found = [one for one in find_backups(place) if one.shown.endswith("/" + wanted.lstrip("/"))]
    found += [one for one in find_backups(place) if one.shown == wanted]
    if len(found) != 1:
        known = ", ".join(one.shown for one in found or find_backups(place)) or "none"
        raise RescueError(f"{wanted} names {len(found)} backups. Known: {known}.")
    return found[0]


def run_restore(args: argparse.Namespace) -> None:
    """A data directory that PostgreSQL starts on, and recovers to the end of the WAL."""
    refuse_root()
    place, into = Path(args.dir), Path(os.path.abspath(args.into))  # noqa: PTH100
    check_empty(into)
    chosen = find_backup(place, args.backup)
    frames = Frames(Repository(place, Opener(args.identity, args.passphrase_file)))
    backup = Backup(chosen, frames)
    try:
        spaces = place_tablespaces(backup, args.tablespace)
        archive = Archive(chosen.system, frames)
        way = find_way(archive, backup.head, args)
        backup.check_packs()
        notes = write_backup(Target(into), backup, spaces, archive, way)
    finally:
        backup.close()
    if backup.head["failed_pages"]:
        notes.append(f"{backup.head['failed_pages']} pages were damaged when they were read")
    tails = chosen.system / "tails"
    if tails.is_dir() and any(tails.iterdir()):
        notes.append("there is newer WAL in tails/, which pgkeep reads and this script does not")
    for note in notes:
        say(f"Note: {note}.")
    say(f"Done. WAL up to {way.segments[-1]}, timeline {way.timeline}. Start PostgreSQL")
    say(f"{backup.head['postgres_major']} on {into}: it recovers to the end, then takes writes. It")
    say("is a copy that archives nothing: pgkeep.copy in it says how to make it the original.")


def write_backup(
    target: Target, backup: Backup, spaces: dict[bytes, Path], archive: Archive, way: Way
) -> list[str]:
    """Everything, ``pg_control`` last; returns notes."""
    target.begin()
    for path, space in spaces.items():
        space.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.link(path, space)
    directories = [(unescape(row["path"]), row["mode"]) for row in backup.rows("directories")]
    for path, mode in sorted(directories):
        if path not in spaces:
            target.directory(safe_relative(path, backup.what), mode)
    outside: dict[bytes, bytes] = {}
    control, auto = None, b""
    for row in backup.rows("files"):
        path = unescape(row["path"])
        if row["area"] == 1:
            outside[path] = read_small(backup, row)
        elif path == b"global/pg_control":
            control = row
        elif path == b"postgresql.auto.conf":
            auto = read_small(backup, row)
        else:
            write_file(target, backup, row)
    if control is None:
        raise Damaged(backup.what, "it has no pg_control")
    notes = write_outside(target, outside)
    write_wal(target, archive, way)
    target.whole(ADOPT, auto)
    # A tablespace that is no link makes recovery panic without it.
    in_place = any(re.fullmatch(rb"pg_tblspc/\d+", p) and p not in spaces for p, _ in directories)
    settings = recovery_settings(way.timeline, in_place=in_place)
    target.whole("postgresql.auto.conf", auto + settings.encode())
    target.whole("recovery.signal", b"")
    target.whole("pgkeep.copy", copy_mark(backup))
    target.sync()
    write_file(target, backup, control)
    target.sync()
    return notes


def copy_mark(backup: Backup) -> bytes:
    """On this file pgkeep refuses to archive or back up."""
    document = {
        "pgkeep": 1,
        "backup": backup.head["backup"],
        "cluster": backup.head["cluster"],
        "meaning": "This data directory is a restored copy: it archives nothing, and pgkeep "
        "refuses to archive or back it up, since the original may be alive.",
        "to_make_it_the_original": [
            "stop the original for good, and this server",
            f"mv {ADOPT} postgresql.auto.conf",
            "rm pgkeep.copy",
            "start this server",
        ],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def write_file(target: Target, backup: Backup, row: Any) -> None:
    """One file of the data directory."""
    path = safe_relative(unescape(row["path"]), backup.what)
    target.write(path, backup.pieces(row), size=row["size_bytes"], mode=row["mode"])


def read_small(backup: Backup, row: Any) -> bytes:
    """A file of configuration, whole."""
    size = row["size_bytes"]
    need(0 <= size <= MAX_RECORD, backup.what, "a file of configuration is too large")
    content = bytearray(size)
    for offset, piece in backup.pieces(row):
        content[offset : offset + len(piece)] = piece
    return bytes(content)


def write_wal(target: Target, archive: Archive, way: Way) -> None:
    """The segments, all history files, and the list that the restore command asks, last."""
    names = [*archive.histories(), *way.segments]
    for name in names:
        target.whole(f"{COPIED}/{name}", archive.read(name))
    target.whole(f"{COPIED}/list", "".join(f"{name}\n" for name in names).encode())


def run_wal(args: argparse.Namespace) -> None:
    """All WAL of one cluster as PostgreSQL wrote it, into a new directory."""
    place, into = Path(args.dir), Path(os.path.abspath(args.into))  # noqa: PTH100
    systems = [
        one for one in find_systems(place) if not args.cluster or one.parent.name == args.cluster
    ]
    systems = [one for one in systems if not args.system or one.name == args.system]
    if len(systems) != 1:
        known = ", ".join(f"{one.parent.name}/{one.name}" for one in find_systems(place)) or "none"
        raise RescueError(f"Say which one with --cluster and --system. Known: {known}.")
    frames = Frames(Repository(place, Opener(args.identity, args.passphrase_file)))
    archive = Archive(systems[0], frames)
    target = Target(into)
    target.begin()
    names = [*archive.histories(), *sorted(archive.segments())]
    for name in names:
        target.whole(name, archive.read(name))
    target.sync()
    say(f"Done. {len(names)} files.")


def refuse_root() -> None:
    """PostgreSQL does not start as root, and not on what is root's."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        raise RescueError(
            "PostgreSQL does not run as root. Run this as its user, for example: "
            "runuser -u postgres -- python3 rescue.py …"
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text = (__doc__ or "").split("\n\n")
    main = argparse.ArgumentParser(
        prog="rescue.py",
        description="\n\n".join(text[:3]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(required=True, metavar="COMMAND")
    for name, run in (("list", run_list), ("restore", run_restore), ("wal", run_wal)):
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("dir", metavar="DIR", help="the repository")
        if name == "restore":
            command.add_argument("backup", metavar="BACKUP", help="as list shows it")
            command.add_argument("--timeline", type=int, help="recover along this timeline")
            command.add_argument("--stop-at-gap", action="store_true", help="end where WAL does")
            command.add_argument(
                "--tablespace", action="append", default=[], metavar="OID=DIR", help="where to"
            )
        if name == "wal":
            command.add_argument("--cluster", help="whose, if there are several")
            command.add_argument("--system", help="its system identifier, if there are several")
        if name != "list":
            command.add_argument("into", metavar="INTO", help="a new directory")
        command.add_argument("--identity", metavar="FILE", help="the secret key")
        command.add_argument("--passphrase-file", metavar="FILE", help="instead of asking for it")
    return main


def main() -> int:
    """Run a command; the exit code."""
    args = parser().parse_args()
    try:
        args.run(args)
    except RescueError as error:
        sys.stderr.write(f"rescue.py: {error}\n")
        return error.code
    except OSError as error:
        sys.stderr.write(f"rescue.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
