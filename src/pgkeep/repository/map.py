"""Maps: which frames make up one file (format, section 6).

Pages never shift inside a PostgreSQL file, so a list of page ranges is all the index there is.
Maps are stored many to a block, in columns, because columns compress well and are read by numpy
without a loop: a 10 TB cluster has some ten million extents. Who needs one file asks for its
:class:`FileMap`; who needs all of them asks the block for its :meth:`MapBlock.columns`, or
``map_table.py`` for the places of all pages at once.
"""

from __future__ import annotations

import operator
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pgkeep.repository.pack import from_little_endian, little_endian
from pgkeep.seal.envelope import damaged

if TYPE_CHECKING:
    from pgkeep.repository.map_rows import MapRows

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


def build_block(maps: Sequence[FileMap | MapRows], page_size: int) -> bytes:
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
        if isinstance(one, FileMap):
            for frame in one.frames:
                pack = packs.setdefault((frame.attempt, frame.pack), len(packs))
                _append(frames, (pack, *frame[2:]))
            for extent in one.extents:
                _append(extents, extent)
            failed.extend(one.failed)
        else:
            _append_rows(frames, _renumbered(one, packs))
            _append_rows(extents, one.extents)
            _append_rows((failed,), (one.failed,))
        paths += os.fsencode(one.path) + b"\0"
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


class MapColumns(NamedTuple):
    """All maps of a block as numpy arrays, without a copy; section 6 of the format says what they
    mean.

    ``first_frame``, ``first_extent`` and ``first_failed`` have one entry more than there are maps,
    so that map ``i`` has rows ``[first[i], first[i + 1])``. ``frames`` has rows pack, number,
    offset, stored, plain; ``extents`` first page, pages, frame, page in frame.
    """

    sizes: Any
    first_frame: Any
    first_extent: Any
    first_failed: Any
    frames: Any
    extents: Any
    failed: Any


class MapBlock:
    """A parsed map block. Parsing is lazy in the maps: a block is a handful of columns.

    Raises ``DamagedObject`` unless all columns fit together.
    """

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) < _HEAD.size:
            raise damaged(name, "a map block is cut off")
        magic, self.page_size, maps, packs, frames, extents, failed, paths = _HEAD.unpack_from(data)
        sizes = [packs * 20, maps * 8, *[maps * 4] * 3, *[frames * 4] * 5, *[extents * 4] * 4]
        sizes += [failed * 4, paths]
        if magic != _MAGIC or not self.page_size or len(data) != _HEAD.size + sum(sizes):
            raise damaged(name, "a map block is malformed")
        self._name = name
        self._counts = (frames, extents, failed)
        self._columns_at = _HEAD.size + 20 * packs
        self._data = data
        pieces = list(_cut(data, _HEAD.size, sizes))
        self.packs = [(attempt.hex(), number) for attempt, number in _PACK.iter_unpack(pieces[0])]
        self._sizes = from_little_endian(pieces[1], "Q")
        self._firsts = [from_little_endian(piece) for piece in pieces[2:5]]
        self._frames = [from_little_endian(piece) for piece in pieces[5:10]]
        self._extents = [from_little_endian(piece) for piece in pieces[10:14]]
        self._failed = from_little_endian(pieces[14])
        self._arrays: MapColumns | None = None
        self._paths = bytes(pieces[15]).split(b"\0")[:-1]
        if len(self._paths) != maps:
            raise damaged(name, "a map block has not as many paths as maps")
        self._check()

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[FileMap]:
        return (self[slot] for slot in range(len(self)))

    def __getitem__(self, slot: int) -> FileMap:
        """The map in a slot. Raises ``DamagedObject`` when there is none: a manifest said so."""
        if not 0 <= slot < len(self):
            raise damaged(self._name, f"a map block has no map {slot}")
        frames = slice(*self._span(0, slot))
        extents = slice(*self._span(1, slot))
        failed = slice(*self._span(2, slot))
        return FileMap(
            self.path(slot),
            self._sizes[slot],
            [
                FrameAddress(*self.packs[pack], *rest)
                for pack, *rest in zip(*(c[frames] for c in self._frames), strict=True)
            ],
            [Extent(*row) for row in zip(*(c[extents] for c in self._extents), strict=True)],
            list(self._failed[failed]),
        )

    def path(self, slot: int) -> str:
        """The path of the file whose map is in a slot."""
        return os.fsdecode(self._paths[slot])

    def columns(self) -> MapColumns:
        """All maps at once, as numpy arrays."""
        if self._arrays is None:
            self._arrays = self._as_arrays()
        return self._arrays

    def _as_arrays(self) -> MapColumns:
        import numpy as np

        maps, (frames, extents, failed) = len(self), self._counts
        at = self._columns_at
        sizes = np.frombuffer(self._data, "<u8", maps, at)
        count = 3 * maps + 5 * frames + 4 * extents + failed
        rest = np.frombuffer(self._data, "<u4", count, at + 8 * maps)
        firsts = [
            np.append(rest[i * maps : (i + 1) * maps], np.uint32(end))
            for i, end in enumerate(self._counts)
        ]
        at = 3 * maps
        frame_rows = rest[at : at + 5 * frames].reshape(5, frames)
        at += 5 * frames
        extent_rows = rest[at : at + 4 * extents].reshape(4, extents)
        failed_row = rest[at + 4 * extents :]
        return MapColumns._make((sizes, *firsts, frame_rows, extent_rows, failed_row))

    def _check(self) -> None:
        """Rows ascend within what there is, and every frame lies in a pack of the table."""
        for firsts, end in zip(self._firsts, self._counts, strict=True):
            if firsts and (
                firsts[0] != 0
                or firsts[-1] > end
                or not all(map(operator.le, firsts, islice(firsts, 1, None)))
            ):
                raise damaged(self._name, "the rows of a map block do not ascend")
        if max(self._frames[0], default=-1) >= len(self.packs):
            raise damaged(self._name, "a map block names a pack that it does not list")

    def _span(self, column: int, slot: int) -> tuple[int, int]:
        firsts = self._firsts[column]
        beyond = firsts[slot + 1] if slot + 1 < len(firsts) else self._counts[column]
        return firsts[slot], beyond


def _append(columns: Sequence[array[int]], row: Sequence[int]) -> None:
    for column, value in zip(columns, row, strict=True):
        column.append(value)


def _append_rows(columns: Sequence[array[int]], rows: Any) -> None:
    for column, row in zip(columns, rows, strict=True):
        column.frombytes(row.astype("=u4").tobytes())


def _renumbered(one: MapRows, packs: dict[tuple[str, int], int]) -> Any:
    """The rows of its frames, with packs as the block numbers them."""
    import numpy as np

    numbers = [packs.setdefault(pack, len(packs)) for pack in one.packs]
    return (np.array(numbers, dtype=np.int64)[one.frames[0]], *one.frames[1:])


def _cut(data: bytes, start: int, sizes: Sequence[int]) -> Iterator[Any]:
    for size in sizes:
        yield data[start : start + size]
        start += size
