"""The one shape of all binary objects: header, frames, trailer (format, section 3).

Writing goes into one preallocated buffer: AES-GCM encrypts straight into it, so a frame's bytes
are copied by nobody. Every call that touches many bytes (zstd, GCM, BLAKE3) releases the GIL.

Two hashes, neither of which needs a key: the trailer's is over all *stored* bytes, for a scrub; the
object's id is over the header, so that who reads only a header (a second push, a listing) knows
that it is sound, and every frame, being bound to the id, is bound to the header as well.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from pgkeep.errors import FormatTooNew
from pgkeep.seal.frame import DATA as DATA
from pgkeep.seal.frame import MAX_FRAME as MAX_FRAME
from pgkeep.seal.frame import MAX_METADATA_FRAME as MAX_METADATA_FRAME
from pgkeep.seal.frame import METADATA as METADATA
from pgkeep.seal.frame import PREFIX_SIZE as PREFIX_SIZE
from pgkeep.seal.frame import TAG_SIZE as TAG_SIZE
from pgkeep.seal.frame import FrameOpener as FrameOpener
from pgkeep.seal.frame import FrameRef as FrameRef
from pgkeep.seal.frame import Scratch as Scratch
from pgkeep.seal.frame import associated_data as associated_data
from pgkeep.seal.frame import compressor as compressor
from pgkeep.seal.frame import damaged as damaged
from pgkeep.seal.frame import decompress as decompress
from pgkeep.seal.frame import nonce as nonce
from pgkeep.seal.frame import plain_limit, write_prefix
from pgkeep.seal.frame import read_prefix as read_prefix
from pgkeep.seal.keyring import Keyring, ObjectKeys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    from pgkeep.storage.interface import Store

FORMAT_VERSION = 1
MAGIC = b"PGKEEP\x00"

PACK, MANIFEST, WAL, TAIL, PARTIAL_MANIFEST, SEALED_RECORD = 1, 2, 3, 4, 5, 6

_HEADER = struct.Struct("<7sBBBHI16s16sHHI")
_TRAILER = struct.Struct("<QII32s")
_ID = slice(32, 48)
HEADER_SIZE = _HEADER.size
TRAILER_SIZE = _TRAILER.size
MAX_HEADER = 1 << 20
"""The most bytes that a plain header may take."""


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
        buffer: bytearray | mmap | None = None,
    ) -> None:
        self._keyring = keyring
        self._type = object_type
        self._sealed = keyring.sealed
        self.object_id = bytes(16)
        self.keys: ObjectKeys = keyring.new_keys(data=data, metadata=metadata)
        self._buffer: bytearray | mmap = bytearray(capacity) if buffer is None else buffer
        self._ciphers: dict[int, Any] = {}
        self._compressor = compressor(level)
        self.frames = 0
        self.size = 0
        self._write_header(header)

    def add(self, plain: Any, *, kind: int, final: bool = False) -> FrameRef:
        """Compress, seal and append one frame of class ``kind`` (DATA or METADATA).

        Raises ValueError for more bytes than a reader would accept.
        """
        plain_length = memoryview(plain).nbytes
        if plain_length > plain_limit(kind):
            raise ValueError(f"a frame of {plain_length} bytes is too large")
        packed = self._compressor.compress(plain)
        stored = len(packed) + (TAG_SIZE if self._sealed else 0)
        offset, number = self.size, self.frames
        start = offset + PREFIX_SIZE
        self._reserve(start + stored)
        write_prefix(self._buffer, offset, kind=kind, stored=stored, plain=plain_length)
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
        if len(plain) > MAX_HEADER:
            raise ValueError(f"a header of {len(plain)} bytes is too large")
        fixed = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            self._type,
            int(self._sealed),
            0,
            len(plain),
            self._keyring.repository_id,
            bytes(16),
            len(self.keys.sealed_data),
            len(self.keys.sealed_metadata),
            0,
        )
        whole = bytearray(fixed + plain + self.keys.sealed_data + self.keys.sealed_metadata)
        self.object_id = whole[_ID] = object_id_of(whole)
        self._reserve(len(whole))
        self._buffer[: len(whole)] = whole
        self.size = len(whole)

    def _reserve(self, size: int) -> None:
        if size > len(self._buffer):
            larger = bytearray(max(size, len(self._buffer) * 3 // 2))
            larger[: self.size] = memoryview(self._buffer)[: self.size]
            self._buffer = larger

    def _cipher(self, kind: int) -> Any:
        if kind not in self._ciphers:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._ciphers[kind] = AESGCM(self.keys.metadata if kind else self.keys.data)
        return self._ciphers[kind]


def object_id_of(header: bytes | bytearray) -> bytes:
    """The id of the object with this whole header: a hash of it, with zeros in the id's place."""
    from blake3 import blake3

    blank = header[: _ID.start] + bytes(16) + header[_ID.stop :]
    return blake3(blank).digest(length=16)


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
    keys = HEADER_SIZE + plain_length
    end = keys + d + m
    if len(data) < end or plain_length > MAX_HEADER:
        raise damaged(name, "its header is cut off")
    if object_id_of(bytes(data[:end])) != object_id:
        raise damaged(name, "its header does not match the hash it was stored with")
    if version < 1 or sealed > 1:
        raise damaged(name, "its header is malformed")
    return Header(
        kind,
        bool(sealed),
        repository,
        object_id,
        json_object(data[HEADER_SIZE:keys], name, "its header"),
        bytes(data[keys : keys + d]),
        bytes(data[keys + d : end]),
        end,
    )


def header_length(data: bytes) -> int:
    """How many bytes the header of an object takes, from its first ``HEADER_SIZE`` bytes."""
    fields = _HEADER.unpack_from(data)
    return int(HEADER_SIZE + fields[5] + fields[8] + fields[9])


def fetch_header(
    store: Store, key: str, *, object_type: int, repository_id: bytes, first_bytes: int
) -> tuple[Header, bytes]:
    """The header of a stored object, and the bytes read: one small request, two at most.

    Raises ``ObjectNotFound``, ``DamagedObject``, ``FormatTooNew``.
    """
    data = store.get_range(key, 0, first_bytes)
    if len(data) >= HEADER_SIZE:
        needed = header_length(data)
        if needed > len(data) and needed <= HEADER_SIZE + MAX_HEADER + 2 * 0xFFFF:
            data = store.get_range(key, 0, needed)
    return parse_header(data, key, object_type=object_type, repository_id=repository_id), data


def json_object(data: Any, name: str, what: str) -> dict[str, Any]:
    """The JSON object in ``data``. Raises ``DamagedObject`` for anything else."""
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise damaged(name, f"{what} is not JSON") from error
    if not isinstance(found, dict):
        raise damaged(name, f"{what} is not a JSON object")
    return found


def opener_for(keyring: Keyring, header: Header, name: str) -> FrameOpener:
    """A ``FrameOpener`` for an object whose header was parsed. Raises ``DamagedObject``."""
    if header.sealed != keyring.sealed:
        says = "it is" if header.sealed else "it is not"
        raise damaged(name, f"{says} encrypted, unlike the repository")
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
    # The last frame's authentication says that it is the last: without any, nothing would.
    if frames == 0:
        raise damaged(name, "it holds no frame")
    return index_offset, frames, digest


def read_trailer(tail: Any, name: str) -> tuple[int, int, bytes]:
    """(index offset, frames, digest) from the end of an object, of which nothing else is checked.

    Raises ``DamagedObject``.
    """
    if len(tail) < TRAILER_SIZE:
        raise damaged(name, "it is cut off")
    index_offset, frames, _, digest = _TRAILER.unpack_from(tail, len(tail) - TRAILER_SIZE)
    if not frames:
        raise damaged(name, "it holds no frame")
    return index_offset, frames, digest


def read_frames(data: Any, keyring: Keyring, header: Header, name: str) -> Iterator[bytes]:
    """Check a whole object and yield its frames' plain bytes, in order; at least one."""
    _, frames, _ = check_trailer(data, name)
    opener = opener_for(keyring, header, name)
    end = len(data) - TRAILER_SIZE
    offset = header.end
    for number in range(frames):
        _, stored, _ = read_prefix(data, offset, name)
        beyond = offset + PREFIX_SIZE + stored
        last = number == frames - 1
        if beyond > end or (last and beyond != end):
            raise damaged(name, "its frames do not add up to its size")
        yield opener.open_at(data, offset, number=number, final=last)
        offset = beyond
