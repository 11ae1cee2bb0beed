"""Packs: objects of about 32 MiB that hold many frames and, last, a sealed index.

Format: section 4.

A writer fills one buffer, which it may be given (a backup reuses a few of them for its whole
run), and never touches a store: what comes out is a key and bytes. The index costs 8 bytes a
page and is what the next backup compares with.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from pgkeep.repository.layout import Layout
from pgkeep.seal import envelope
from pgkeep.seal.envelope import DATA, METADATA, EnvelopeWriter, FrameRef
from pgkeep.seal.keyring import HASH_NONE, Keyring, PageHashKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap

    from pgkeep.storage.interface import Store

PACK_BYTES = 32 << 20
"""A pack is closed when it has grown to this size; one frame and the index come on top."""

BUFFER_BYTES = PACK_BYTES + (4 << 20)
_TAIL_BYTES = 256 << 10
INDEX_BYTES = 17
"""What the index takes for a frame, apart from its hashes."""

NO_HASHES = PageHashKey(HASH_NONE, b"", bytes(32))

_INDEX_HEAD = struct.Struct("<4sIIB3x32s")
_INDEX_MAGIC = b"PKI1"


class PackInfo(NamedTuple):
    """What a manifest says of a pack. ``attempt`` is hexadecimal."""

    attempt: str
    number: int
    size_bytes: int
    blake3: bytes
    object_id: bytes
    sealed_data: bytes
    sealed_metadata: bytes

    def key(self, layout: Layout) -> str:
        return layout.pack(self.attempt, self.number)

    def opener(self, keyring: Keyring, layout: Layout) -> envelope.FrameOpener:
        """Opens this pack's frames without reading its header first."""
        return envelope.FrameOpener(
            keyring,
            envelope.PACK,
            name=self.key(layout),
            object_id=self.object_id,
            sealed_data=self.sealed_data,
            sealed_metadata=self.sealed_metadata,
        )


class PackIndex(NamedTuple):
    """A parsed index. Columns have one entry a frame; ``hashes`` is 8 bytes a page."""

    page_size: int
    hash_kind: int
    hash_shown: bytes
    kinds: bytes
    offsets: Sequence[int]
    stored: Sequence[int]
    plain: Sequence[int]
    pages: Sequence[int]
    hashes: bytes


class PackWriter:
    """Builds one pack. Used by one thread at a time."""

    def __init__(
        self,
        keyring: Keyring,
        attempt: str,
        number: int,
        *,
        page_size: int,
        hash_key: PageHashKey = NO_HASHES,
        level: int = 1,
        buffer: bytearray | mmap | None = None,
    ) -> None:
        self.attempt, self.number = attempt, number
        self._page_size, self._hash_key = page_size, hash_key
        self._envelope = EnvelopeWriter(
            keyring,
            envelope.PACK,
            header={"attempt": attempt, "number": number},
            data=True,
            metadata=True,
            level=level,
            buffer=buffer,
        )
        self._kinds = bytearray()
        self._columns = tuple(array("I") for _ in range(4))
        self._hashes: list[bytes] = []

    @property
    def full(self) -> bool:
        return self._envelope.size >= PACK_BYTES

    @property
    def frames(self) -> int:
        return self._envelope.frames

    @property
    def size_bytes(self) -> int:
        return self._envelope.size

    def add_data(self, plain: Any, hashes: bytes) -> FrameRef:
        """One frame of pages, at most 1 MiB, and its page hashes (8 bytes each)."""
        return self._note(self._envelope.add(plain, kind=DATA), DATA, hashes)

    def add_map_block(self, block: bytes) -> FrameRef:
        """One frame of metadata."""
        return self._note(self._envelope.add(block, kind=METADATA), METADATA, b"")

    def finish(self) -> tuple[PackInfo, memoryview]:
        """Seal the index and return what is to be stored, a view of the buffer."""
        writer = self._envelope
        index = writer.add(self._index(), kind=METADATA, final=True)
        view = writer.finish(index_offset=index.offset)
        info = PackInfo(
            self.attempt,
            self.number,
            len(view),
            writer.digest,
            writer.object_id,
            writer.keys.sealed_data,
            writer.keys.sealed_metadata,
        )
        return info, view

    def _note(self, frame: FrameRef, kind: int, hashes: bytes) -> FrameRef:
        self._kinds.append(kind)
        row = (frame.offset, frame.stored, frame.plain, len(hashes) // 8)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        self._hashes.append(hashes)
        return frame

    def _index(self) -> bytes:
        head = _INDEX_HEAD.pack(
            _INDEX_MAGIC, self._page_size, self.frames, self._hash_key.kind, self._hash_key.shown
        )
        columns = (little_endian(column) for column in self._columns)
        return b"".join((head, self._kinds, *columns, *self._hashes))


def parse_index(data: bytes, name: str) -> PackIndex:
    """The plain bytes of an index frame, taken apart. Raises ``DamagedObject``."""
    if len(data) < _INDEX_HEAD.size:
        raise envelope.damaged(name, "its index is cut off")
    magic, page_size, frames, kind, shown = _INDEX_HEAD.unpack_from(data)
    start = _INDEX_HEAD.size + frames
    if magic != _INDEX_MAGIC or not page_size or len(data) < start + 16 * frames:
        raise envelope.damaged(name, "its index is malformed")
    offsets, stored, plain, pages = (
        from_little_endian(data[start + 4 * frames * i : start + 4 * frames * (i + 1)])
        for i in range(4)
    )
    hashes = data[start + 16 * frames :]
    if len(hashes) != 8 * sum(pages):
        raise envelope.damaged(name, "its index has not as many page hashes as it announces")
    kinds = data[_INDEX_HEAD.size : start]
    return PackIndex(page_size, kind, shown, kinds, offsets, stored, plain, pages, hashes)


def read_index(data: Any, keyring: Keyring, info: PackInfo, layout: Layout) -> PackIndex:
    """The index of a whole pack, whose hash is checked: it is the manifest's, too.

    Raises ``DamagedObject``.
    """
    name = info.key(layout)
    offset, frames, digest = envelope.check_trailer(data, name)
    if digest != info.blake3:
        raise envelope.damaged(name, "it is not the pack that the manifest names")
    opener = info.opener(keyring, layout)
    return parse_index(opener.open_at(data, offset, number=frames - 1, final=True), name)


def fetch_index(store: Store, keyring: Keyring, info: PackInfo, layout: Layout) -> PackIndex:
    """The index of a stored pack, by one request or two; the rest of the pack is not read.

    Raises ``DamagedObject``, ``ObjectNotFound``, and what the store raises.
    """
    name = info.key(layout)
    start = max(0, info.size_bytes - _TAIL_BYTES)
    tail = store.get_range(name, start, info.size_bytes - start)
    offset, frames, digest = envelope.read_trailer(tail, name)
    if digest != info.blake3 or offset >= info.size_bytes:
        raise envelope.damaged(name, "it is not the pack that the manifest names")
    if offset < start:
        start = offset
        tail = store.get_range(name, start, info.size_bytes - start)
    opener = info.opener(keyring, layout)
    plain = opener.open_at(tail, offset - start, number=frames - 1, final=True)
    return parse_index(plain, name)


def little_endian(column: array[int]) -> bytes:
    """The column's bytes in the format's byte order, whatever the machine's."""
    import sys

    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def from_little_endian(data: bytes, typecode: str = "I") -> array[int]:
    """The inverse of :func:`little_endian`."""
    import sys

    column = array(typecode)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
