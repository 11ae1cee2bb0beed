"""Maps: which frames make up one file (format, section 6).

Pages never shift inside a PostgreSQL file, so a list of page ranges is all the index there is.
Maps are stored many to a block, in columns, because columns compress well and are read by numpy
without a loop: a 10 TB cluster has some ten million extents.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgkeep.repository.pack import from_little_endian, little_endian
from pgkeep.seal.envelope import damaged

HOLE = 0xFFFFFFFF
_HEAD = struct.Struct("<4sI6I")
_MAGIC = b"MAP1"
_PACK = struct.Struct("<16sI")


class FrameAddress(NamedTuple):
    """Where a frame is: pack (attempt in hex, number), frame number, offset and lengths in
    bytes."""

    attempt: str
    pack: int
    number: int
    offset: int
    stored: int
    plain: int


class Extent(NamedTuple):
    """``pages`` pages of a file from ``first``; ``frame`` indexes the map's frames, or is HOLE."""

    first: int
    pages: int
    frame: int
    page_in_frame: int


@dataclass
class FileMap:
    """The map of one file. Extents ascend, do not overlap, and cover ``size_bytes``."""

    path: str
    size_bytes: int
    frames: list[FrameAddress] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def build_block(maps: Sequence[FileMap], page_size: int) -> bytes:
    """The plain bytes of a map block."""
    packs: dict[tuple[str, int], int] = {}
    sizes = array("Q")
    firsts = tuple(array("I") for _ in range(3))
    frames = tuple(array("I") for _ in range(5))
    extents = tuple(array("I") for _ in range(4))
    failed = array("I")
    paths = bytearray()
    for one in maps:
        sizes.append(one.size_bytes)
        for column, value in zip(
            firsts, (len(frames[0]), len(extents[0]), len(failed)), strict=True
        ):
            column.append(value)
        for frame in one.frames:
            pack = packs.setdefault((frame.attempt, frame.pack), len(packs))
            _append(frames, (pack, *frame[2:]))
        for extent in one.extents:
            _append(extents, extent)
        failed.extend(one.failed)
        paths += one.path.encode("utf-8", "surrogateescape") + b"\0"
    head = _HEAD.pack(
        _MAGIC,
        page_size,
        len(maps),
        len(packs),
        len(frames[0]),
        len(extents[0]),
        len(failed),
        len(paths),
    )
    table = b"".join(_PACK.pack(bytes.fromhex(attempt), number) for attempt, number in packs)
    columns = (little_endian(c) for c in (sizes, *firsts, *frames, *extents, failed))
    return b"".join((head, table, *columns, paths))


class MapBlock:
    """A parsed map block. Parsing is lazy in the maps: a block is a handful of columns."""

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) < _HEAD.size:
            raise damaged(name, "a map block is cut off")
        magic, self.page_size, maps, packs, frames, extents, failed, paths = _HEAD.unpack_from(data)
        sizes = [packs * 20, maps * 8, *[maps * 4] * 3, *[frames * 4] * 5, *[extents * 4] * 4]
        sizes += [failed * 4, paths]
        if magic != _MAGIC or len(data) != _HEAD.size + sum(sizes):
            raise damaged(name, "a map block is malformed")
        pieces = list(_cut(data, _HEAD.size, sizes))
        self.packs = [(attempt.hex(), number) for attempt, number in _PACK.iter_unpack(pieces[0])]
        self._sizes = from_little_endian(pieces[1], "Q")
        self._firsts = [from_little_endian(piece) for piece in pieces[2:5]]
        self._frames = [from_little_endian(piece) for piece in pieces[5:10]]
        self._extents = [from_little_endian(piece) for piece in pieces[10:14]]
        self._failed = from_little_endian(pieces[14])
        self._paths = bytes(pieces[15]).split(b"\0")[:-1]
        if len(self._paths) != maps:
            raise damaged(name, "a map block has not as many paths as maps")

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, slot: int) -> FileMap:
        """The map in a slot. Raises IndexError."""
        frames = slice(*self._span(0, slot, len(self._frames[0])))
        extents = slice(*self._span(1, slot, len(self._extents[0])))
        failed = slice(*self._span(2, slot, len(self._failed)))
        return FileMap(
            self._paths[slot].decode("utf-8", "surrogateescape"),
            self._sizes[slot],
            [
                FrameAddress(*self.packs[pack], *rest)
                for pack, *rest in zip(*(c[frames] for c in self._frames), strict=True)
            ],
            [Extent(*row) for row in zip(*(c[extents] for c in self._extents), strict=True)],
            list(self._failed[failed]),
        )

    def _span(self, column: int, slot: int, end: int) -> tuple[int, int]:
        firsts = self._firsts[column]
        return firsts[slot], firsts[slot + 1] if slot + 1 < len(firsts) else end


def _append(columns: Sequence[array[int]], row: Sequence[int]) -> None:
    for column, value in zip(columns, row, strict=True):
        column.append(value)


def _cut(data: bytes, start: int, sizes: Sequence[int]) -> Iterator[Any]:
    for size in sizes:
        yield data[start : start + size]
        start += size
