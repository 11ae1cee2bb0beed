"""The one shape of all binary objects: header, frames, trailer (format, section 3).

Writing goes into one preallocated buffer: AES-GCM encrypts straight into it, so a frame's bytes
are copied by nobody. Every call that touches many bytes (zstd, GCM, BLAKE3) releases the GIL.

Decisions:

* Each object has random keys, so a counter is a safe nonce, across restarts too.
* The associated data binds a frame to its object and number and not to its offset in a file.
* The trailer's hash is over *stored* bytes: a scrub needs no key.
* A reader checks the announced sizes before it allocates: stored bytes are hostile input.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, FormatTooNew
from pgkeep.seal.keyring import Keyring, ObjectKeys

FORMAT_VERSION = 1
MAGIC = b"PGKEEP\x00"

PACK, MANIFEST, WAL, TAIL, PARTIAL_MANIFEST, SEALED_RECORD = 1, 2, 3, 4, 5, 6
DATA, METADATA = 0, 1

_HEADER = struct.Struct("<7sBBBHI16s16sHHI")
_PREFIX = struct.Struct("<II")
_TRAILER = struct.Struct("<QII32s")
HEADER_SIZE = _HEADER.size
PREFIX_SIZE = _PREFIX.size
TRAILER_SIZE = _TRAILER.size
TAG_SIZE = 16
_CLASS_BIT = 1 << 31
MAX_FRAME = 64 << 20


class FrameRef(NamedTuple):
    """Where a frame lies: ``offset`` is that of its 8-byte prefix; lengths in bytes."""

    number: int
    offset: int
    stored: int
    plain: int


class Header(NamedTuple):
    """An envelope's parsed header. ``end`` is the offset of the first frame."""

    object_type: int
    sealed: bool
    repository_id: bytes
    object_id: bytes
    plain: dict[str, Any]
    sealed_data: bytes
    sealed_metadata: bytes
    end: int


class EnvelopeWriter:
    """Builds one object in memory. Used by one thread at a time.

    ``data`` and ``metadata`` say which classes of frames it will hold.
    """

    def __init__(
        self,
        keyring: Keyring,
        object_type: int,
        *,
        header: dict[str, Any],
        data: bool = False,
        metadata: bool = False,
        level: int = 1,
        capacity: int = 1 << 16,
        buffer: bytearray | None = None,
    ) -> None:
        self._keyring = keyring
        self._type = object_type
        self._sealed = keyring.sealed
        self.object_id = os.urandom(16)
        self.keys: ObjectKeys = keyring.new_keys(data=data, metadata=metadata)
        self._buffer = bytearray(capacity) if buffer is None else buffer
        self._ciphers: dict[int, Any] = {}
        self._compressor = compressor(level)
        self.frames = 0
        self.size = 0
        self._write_header(header)

    def add(self, plain: Any, *, kind: int, final: bool = False) -> FrameRef:
        """Compress, seal and append one frame of class ``kind`` (DATA or METADATA)."""
        packed = self._compressor.compress(plain)
        stored = len(packed) + (TAG_SIZE if self._sealed else 0)
        offset, number = self.size, self.frames
        start = offset + PREFIX_SIZE
        self._reserve(start + stored)
        plain_length = memoryview(plain).nbytes
        _PREFIX.pack_into(self._buffer, offset, stored | (kind << 31), plain_length)
        if self._sealed:
            with memoryview(self._buffer) as view, view[start : start + stored] as target:
                self._cipher(kind).encrypt_into(
                    nonce(number),
                    packed,
                    associated_data(
                        self._keyring.repository_id,
                        self._type,
                        kind,
                        self.object_id,
                        number,
                        final=final,
                    ),
                    target,
                )
        else:
            self._buffer[start : start + stored] = packed
        self.size = start + stored
        self.frames += 1
        return FrameRef(number, offset, stored, plain_length)

    def finish(self, *, index_offset: int = 0) -> memoryview:
        """Append the trailer and return the whole object, a view of the writer's buffer."""
        from blake3 import blake3

        self._reserve(self.size + TRAILER_SIZE)
        _TRAILER.pack_into(self._buffer, self.size, index_offset, self.frames, 0, bytes(32))
        hashed = self.size + TRAILER_SIZE - 32
        with memoryview(self._buffer) as view, view[:hashed] as body:
            self.digest = blake3(body).digest()
        self._buffer[hashed : hashed + 32] = self.digest
        self.size = hashed + 32
        return memoryview(self._buffer)[: self.size]

    def _write_header(self, header: dict[str, Any]) -> None:
        plain = json.dumps(header, separators=(",", ":")).encode()
        fixed = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            self._type,
            int(self._sealed),
            0,
            len(plain),
            self._keyring.repository_id,
            self.object_id,
            len(self.keys.sealed_data),
            len(self.keys.sealed_metadata),
            0,
        )
        whole = fixed + plain + self.keys.sealed_data + self.keys.sealed_metadata
        self._reserve(len(whole))
        self._buffer[: len(whole)] = whole
        self.size = len(whole)

    def _reserve(self, size: int) -> None:
        if size > len(self._buffer):
            self._buffer.extend(bytes(max(size - len(self._buffer), len(self._buffer) // 2)))

    def _cipher(self, kind: int) -> Any:
        if kind not in self._ciphers:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._ciphers[kind] = AESGCM(self.keys.metadata if kind else self.keys.data)
        return self._ciphers[kind]


class FrameOpener:
    """Opens the frames of one object. May be used by many threads at once.

    Made from an object's header, or from what a manifest says of it (no request needed).
    Keys are unwrapped at the first frame that needs them.
    """

    def __init__(
        self,
        keyring: Keyring,
        object_type: int,
        *,
        name: str,
        object_id: bytes,
        sealed_data: bytes = b"",
        sealed_metadata: bytes = b"",
    ) -> None:
        self._keyring = keyring
        self._type = object_type
        self._name = name
        self._object_id = object_id
        self._sealed_keys = (sealed_data, sealed_metadata)
        self._ciphers: dict[int, Any] = {}

    def open(
        self, stored: Any, *, number: int, kind: int, plain: int, final: bool = False
    ) -> bytes:
        """The plain bytes of one frame, of which ``stored`` is without its prefix.

        Raises ``DamagedObject`` when the bytes are not what was stored.
        """
        packed = stored
        if self._keyring.sealed:
            packed = self._decrypt(stored, number=number, kind=kind, final=final)
        return decompress(packed, plain, self._name, number)

    def open_at(self, data: Any, offset: int, *, number: int, final: bool = False) -> bytes:
        """The frame whose prefix is at ``offset`` of ``data``."""
        kind, stored, plain = read_prefix(data, offset, self._name)
        start = offset + PREFIX_SIZE
        view = memoryview(data)[start : start + stored]
        if len(view) != stored:
            raise damaged(self._name, f"frame {number} is cut off")
        return self.open(view, number=number, kind=kind, plain=plain, final=final)

    def _decrypt(self, stored: Any, *, number: int, kind: int, final: bool) -> bytes:
        from cryptography.exceptions import InvalidTag

        bound = associated_data(
            self._keyring.repository_id, self._type, kind, self._object_id, number, final=final
        )
        try:
            return bytes(self._cipher(kind).decrypt(nonce(number), stored, bound))
        except InvalidTag as error:
            raise damaged(self._name, f"frame {number} does not authenticate") from error

    def _cipher(self, kind: int) -> Any:
        if kind not in self._ciphers:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            unwrap = self._keyring.open_metadata_key if kind else self._keyring.open_data_key
            self._ciphers[kind] = AESGCM(unwrap(self._sealed_keys[kind]))
        return self._ciphers[kind]


def parse_header(data: bytes, name: str, *, object_type: int, repository_id: bytes) -> Header:
    """Parse and check the start of an object; ``name`` is its key, for errors.

    Raises ``DamagedObject``, or ``FormatTooNew``. ``data`` may be a prefix of the object that
    covers the header; ``header_length`` tells how much that is.
    """
    if len(data) < HEADER_SIZE:
        raise damaged(name, "it is shorter than a header")
    magic, version, kind, sealed, _, plain_length, repository, object_id, d, m, _ = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise damaged(name, "it does not begin as an object of pgkeep does")
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"{name} was written in format {version}; this pgkeep reads up to {FORMAT_VERSION}.",
            remedy="Upgrade pgkeep on this host.",
        )
    if kind != object_type:
        raise damaged(name, f"it is an object of type {kind}, not {object_type}")
    if repository != repository_id:
        raise damaged(name, f"it belongs to repository {repository.hex()}")
    end = HEADER_SIZE + plain_length + d + m
    if len(data) < end:
        raise damaged(name, "its header is cut off")
    keys = HEADER_SIZE + plain_length
    try:
        plain = json.loads(bytes(data[HEADER_SIZE:keys]))
    except ValueError as error:
        raise damaged(name, "its header is not JSON") from error
    return Header(
        kind,
        bool(sealed),
        repository,
        object_id,
        plain,
        bytes(data[keys : keys + d]),
        bytes(data[keys + d : end]),
        end,
    )


def header_length(data: bytes) -> int:
    """How many bytes the header of an object takes, from its first ``HEADER_SIZE`` bytes."""
    fields = _HEADER.unpack_from(data)
    return int(HEADER_SIZE + fields[5] + fields[8] + fields[9])


def opener_for(keyring: Keyring, header: Header, name: str) -> FrameOpener:
    """A ``FrameOpener`` for an object whose header was parsed."""
    return FrameOpener(
        keyring,
        header.object_type,
        name=name,
        object_id=header.object_id,
        sealed_data=header.sealed_data,
        sealed_metadata=header.sealed_metadata,
    )


def check_trailer(data: Any, name: str) -> tuple[int, int, bytes]:
    """Verify the hash of a whole object; returns (index offset, frames, digest).

    Raises ``DamagedObject``.
    """
    from blake3 import blake3

    if len(data) < HEADER_SIZE + TRAILER_SIZE:
        raise damaged(name, "it is cut off")
    index_offset, frames, _, digest = _TRAILER.unpack_from(data, len(data) - TRAILER_SIZE)
    with memoryview(data) as view, view[: len(data) - 32] as body:
        if blake3(body).digest() != digest:
            raise damaged(name, "its bytes do not match the hash they were stored with")
    return index_offset, frames, digest


def read_frames(data: Any, keyring: Keyring, header: Header, name: str) -> Iterator[bytes]:
    """Check a whole object and yield its frames' plain bytes, in order."""
    _, frames, _ = check_trailer(data, name)
    opener = opener_for(keyring, header, name)
    offset = header.end
    for number in range(frames):
        _, stored, _ = read_prefix(data, offset, name)
        yield opener.open_at(data, offset, number=number, final=number == frames - 1)
        offset += PREFIX_SIZE + stored
    if offset != len(data) - TRAILER_SIZE:
        raise damaged(name, "its frames do not add up to its size")


def read_prefix(data: Any, offset: int, name: str) -> tuple[int, int, int]:
    """(class, stored length, plain length) of the frame at ``offset``."""
    try:
        stored, plain = _PREFIX.unpack_from(data, offset)
    except struct.error as error:
        raise damaged(name, f"there is no frame at byte {offset}") from error
    kind, stored = stored >> 31, stored & (_CLASS_BIT - 1)
    if stored > 2 * MAX_FRAME or plain > MAX_FRAME:
        raise damaged(name, f"the frame at byte {offset} announces impossible sizes")
    return kind, stored, plain


def nonce(number: int) -> bytes:
    """Twelve bytes: four zeros and the frame's number."""
    return number.to_bytes(12, "big")


def associated_data(
    repository_id: bytes, object_type: int, kind: int, object_id: bytes, number: int, *, final: bool
) -> bytes:
    """What a frame is bound to: its repository, object, class, number, and being the last."""
    return b"".join(
        (
            b"pgkeep1\x00",
            repository_id,
            bytes((object_type, kind, int(final), 0, 0, 0, 0, 0)),
            object_id,
            number.to_bytes(8, "little"),
        )
    )


def compressor(level: int) -> Any:
    """A zstd compressor as the format wants it: content size and checksum in each frame."""
    import zstandard

    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)


def decompress(packed: Any, plain: int, name: str, number: int) -> bytes:
    """The plain bytes of one zstd frame, exactly ``plain`` long. Raises ``DamagedObject``."""
    import zstandard

    try:
        if zstandard.frame_content_size(packed) != plain:
            raise damaged(name, f"frame {number} has not the length it announces")
        result = zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise damaged(name, f"frame {number} does not decompress ({error})") from error
    if len(result) != plain:
        raise damaged(name, f"frame {number} is shorter than it announces")
    return bytes(result)


def damaged(name: str, why: str) -> DamagedObject:
    """The error for stored bytes that are not what was stored."""
    return DamagedObject(
        f"{name} is damaged: {why}.",
        remedy="Restore from another backup or copy of the repository; "
        "the next backup stores damaged pages again.",
        object=name,
    )
