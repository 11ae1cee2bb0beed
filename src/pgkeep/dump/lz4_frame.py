"""LZ4 frames, as pg_dump writes plain dumps with them: read without a library of its own.

The format is LZ4's (``lz4_Frame_format.md``, ``lz4_Block_format.md``, version 1.6.x). Checksums are
passed over: what is read was compared with its hash before. Python is slow at it, some 20 MB a
second, which is for a restore that would else not be possible; lz4 is no dependency for its sake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgkeep.errors import DamagedObject

_MAGIC = 0x184D2204
_SKIPPABLE = 0x184D2A50  # and the fifteen after it
_WINDOW = 64 << 10
_NOT_PACKED = 1 << 31


def unpack_frames(pieces: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """What the frames hold, block by block. Raises ``DamagedObject``."""
    source = _Source(pieces)
    while head := source.take(4, may_end=True):
        magic = int.from_bytes(head, "little")
        if magic & ~0xF == _SKIPPABLE:
            source.take(source.number())
        elif magic == _MAGIC:
            yield from _frame(source)
        else:
            raise _damaged("it is no LZ4 frame")


def _frame(source: _Source) -> Iterator[bytes]:
    flags, size_code = source.take(2)
    if flags >> 6 != 1 or flags & 1:
        raise _damaged("it is of another version, or needs a dictionary")
    source.take((8 if flags & 8 else 0) + 1)  # the content's size, and the header's checksum
    most = 1 << (8 + 2 * (size_code >> 4 & 7))
    has_checksums, window = flags & 16, b""
    while size := source.number():
        data = source.take(min(size & ~_NOT_PACKED, most + 1))
        if len(data) > most:
            raise _damaged("a block is too large")
        block = data if size & _NOT_PACKED else _block(data, window, most)
        if has_checksums:
            source.take(4)
        yield block
        # Blocks may refer to what came before them.
        window = (window + block)[-_WINDOW:]
    if flags & 4:
        source.take(4)


def _block(data: bytes, window: bytes, most: int) -> bytes:
    """Literals and copies of what was there, in turns; the last are literals."""
    found, at, end = bytearray(window), 0, len(data)
    most += len(window)
    try:
        while at < end:
            token = data[at]
            at += 1
            length = token >> 4
            if length == 15:
                length, at = _longer(data, length, at)
            found += data[at : at + length]
            at += length
            if at >= end:
                break
            back = data[at] | data[at + 1] << 8
            at += 2
            length = token & 15
            if length == 15:
                length, at = _longer(data, length, at)
            length += 4
            start = len(found) - back
            if back == 0 or start < 0 or len(found) + length > most:
                raise _damaged("a block does not hold what it says")
            piece = found[start : start + length]
            # What overlaps its own copy is a pattern.
            found += piece if back >= length else (piece * (length // back + 1))[:length]
    except IndexError:
        raise _damaged("a block is cut off") from None
    if at != end or len(found) > most:
        raise _damaged("a block is cut off, or too large")
    return bytes(found[len(window) :])


def _longer(data: bytes, length: int, at: int) -> tuple[int, int]:
    while True:
        more = data[at]
        length, at = length + more, at + 1
        if more != 255:
            return length, at


class _Source:
    """So many bytes at a time of what comes in pieces."""

    def __init__(self, pieces: Iterable[bytes | bytearray]) -> None:
        self._pieces = iter(pieces)
        self._waiting = memoryview(b"")

    def take(self, size: int, *, may_end: bool = False) -> bytes:
        """Raises ``DamagedObject`` when there are fewer; with ``may_end`` none is none."""
        found = bytearray()
        while len(found) < size:
            if not self._waiting:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._waiting = memoryview(bytes(piece))
            some = self._waiting[: size - len(found)]
            self._waiting = self._waiting[len(some) :]
            found += some
        if len(found) < size and (found or not may_end):
            raise _damaged("it is cut off")
        return bytes(found)

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")


def _damaged(why: str) -> DamagedObject:
    return DamagedObject(f"The dump does not decompress ({why}).")
