"""Frames: the unit that is compressed, sealed and read (format, section 3).

Decisions:

* Each object has random keys, so a counter is a safe nonce, across restarts too.
* The associated data binds a frame to its object and number and not to its offset in a file.
* A reader checks the announced sizes before it allocates: stored bytes are hostile input. That
  holds for sizes that come from a manifest or a map too, so the check sits where bytes are opened.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.seal.keyring import KEY_SIZE, Keyring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap

DATA, METADATA = 0, 1

_PREFIX = struct.Struct("<II")
PREFIX_SIZE = _PREFIX.size
TAG_SIZE = 16
_CLASS_BIT = 1 << 31
MAX_FRAME = 64 << 20
"""The most plain bytes that a frame of class data may hold."""

MAX_METADATA_FRAME = 256 << 20
"""The same for class metadata: the map of one file is one frame, however large the file is."""


class FrameRef(NamedTuple):
    """Where a frame lies: ``offset`` is that of its 8-byte prefix; lengths in bytes."""

    number: int
    offset: int
    stored: int
    plain: int


class Scratch:
    """What one thread that opens many frames uses again for each of them."""

    def __init__(self) -> None:
        import zstandard

        self.decompressor = zstandard.ZstdDecompressor()
        self._packed = bytearray(1 << 20)

    def packed(self, size: int) -> memoryview:
        """Room for so many decrypted bytes; what was there before is gone."""
        if size > len(self._packed):
            self._packed = bytearray(size)
        return memoryview(self._packed)[:size]


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
        if plain > plain_limit(kind):
            raise damaged(self._name, f"frame {number} announces an impossible size")
        packed = stored
        if self._keyring.sealed:
            packed = self._decrypt(stored, number=number, kind=kind, final=final)
        return decompress(packed, plain, self._name, number)

    def open_into(
        self, stored: Any, target: memoryview, *, number: int, kind: int, scratch: Scratch
    ) -> None:
        """Put the plain bytes of one frame, which are as many as ``target`` has, there.

        What :meth:`open` does, without new memory for each frame. After an error ``target`` holds
        anything.
        """
        if len(target) > plain_limit(kind):
            raise damaged(self._name, f"frame {number} announces an impossible size")
        packed = stored
        if self._keyring.sealed:
            packed = scratch.packed(max(0, len(stored) - TAG_SIZE))
            self._decrypt(stored, number=number, kind=kind, final=False, into=packed)
        decompress_into(packed, target, self._name, number, scratch)

    def open_at(self, data: Any, offset: int, *, number: int, final: bool = False) -> bytes:
        """The frame whose prefix is at ``offset`` of ``data``."""
        kind, stored, plain = read_prefix(data, offset, self._name)
        start = offset + PREFIX_SIZE
        view = memoryview(data)[start : start + stored]
        if len(view) != stored:
            raise damaged(self._name, f"frame {number} is cut off")
        return self.open(view, number=number, kind=kind, plain=plain, final=final)

    def _decrypt(
        self, stored: Any, *, number: int, kind: int, final: bool, into: memoryview | None = None
    ) -> bytes:
        from cryptography.exceptions import InvalidTag

        bound = associated_data(
            self._keyring.repository_id, self._type, kind, self._object_id, number, final=final
        )
        try:
            if into is None:
                return bytes(self._cipher(kind).decrypt(nonce(number), stored, bound))
            if len(stored) < TAG_SIZE:
                raise InvalidTag
            self._cipher(kind).decrypt_into(nonce(number), stored, bound, into)
            return b""
        except InvalidTag as error:
            raise damaged(self._name, f"frame {number} does not authenticate") from error

    def _cipher(self, kind: int) -> Any:
        if kind not in self._ciphers:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            sealed = self._sealed_keys[kind]
            if not sealed:
                raise damaged(self._name, "it has no key for a frame that it holds")
            unwrap = self._keyring.open_metadata_key if kind else self._keyring.open_data_key
            key = unwrap(sealed)
            if len(key) != KEY_SIZE:
                raise damaged(self._name, "its key has not 32 bytes")
            self._ciphers[kind] = AESGCM(key)
        return self._ciphers[kind]


def plain_limit(kind: int) -> int:
    """How many plain bytes a frame of a class may hold."""
    return MAX_METADATA_FRAME if kind else MAX_FRAME


def write_prefix(
    buffer: bytearray | mmap, offset: int, *, kind: int, stored: int, plain: int
) -> None:
    """Write the eight bytes that precede a frame."""
    _PREFIX.pack_into(buffer, offset, stored | (kind << 31), plain)


def read_prefix(data: Any, offset: int, name: str) -> tuple[int, int, int]:
    """(class, stored length, plain length) of the frame at ``offset``."""
    try:
        stored, plain = _PREFIX.unpack_from(data, offset)
    except struct.error as error:
        raise damaged(name, f"there is no frame at byte {offset}") from error
    kind, stored = stored >> 31, stored & (_CLASS_BIT - 1)
    limit = plain_limit(kind)
    # What zstd cannot compress grows by 1/256 at most, and the tag comes on top.
    if plain > limit or stored > limit + (limit >> 7):
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
    """The plain bytes of one zstd frame, exactly ``plain`` long. Raises ``DamagedObject``.

    ``plain`` was found possible before: that much is allocated, and not what the frame claims.
    """
    import zstandard

    try:
        if zstandard.frame_content_size(packed) != plain:
            raise damaged(name, f"frame {number} has not the length it announces")
        opener = zstandard.ZstdDecompressor()
        result = opener.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise damaged(name, f"frame {number} does not decompress ({error})") from error
    if len(result) != plain:
        raise damaged(name, f"frame {number} is shorter than it announces")
    return bytes(result)


def decompress_into(
    packed: Any, target: memoryview, name: str, number: int, scratch: Scratch
) -> None:
    """The plain bytes of one zstd frame, exactly as many as ``target`` has, put there.

    Raises ``DamagedObject``.
    """
    import zstandard

    try:
        if zstandard.frame_content_size(packed) != len(target):
            raise damaged(name, f"frame {number} has not the length it announces")
        with scratch.decompressor.stream_reader(packed) as reader:
            filled = 0
            while filled < len(target) and (count := reader.readinto(target[filled:])):
                filled += count
            # The checksum stands behind the content: it is looked at only by who reads on.
            if filled != len(target) or reader.read(1):
                raise damaged(name, f"frame {number} has not the length it announces")
    except zstandard.ZstdError as error:
        raise damaged(name, f"frame {number} does not decompress ({error})") from error


def damaged(name: str, why: str) -> DamagedObject:
    """The error for stored bytes that are not what was stored."""
    return DamagedObject(
        f"{name} is damaged: {why}.",
        remedy="Restore from another backup or copy of the repository; "
        "the next backup stores damaged pages again.",
        object=name,
    )
