"""Plain dumps as text again, whatever pg_dump compressed them with, a little at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgkeep.errors import DamagedObject, DumpRefused

_PACKED_BYTES = 16 << 10
_UNPACKED_BYTES = 4 << 20


def unpacked(pieces: Iterable[bytes | bytearray], method: str) -> Iterator[bytes | bytearray]:
    """The text of a plain dump that pg_dump compressed. Raises ``DamagedObject``; ``DumpRefused``
    for a method that we do not know."""
    if method == "gzip":
        import zlib

        unzip = zlib.decompressobj(wbits=31)
        try:
            for some in _slices(pieces):
                waiting: bytes = some
                while waiting:
                    yield unzip.decompress(waiting, _UNPACKED_BYTES)
                    waiting = unzip.unconsumed_tail
            yield unzip.flush()
        except zlib.error as error:
            raise DamagedObject(f"The dump does not decompress ({error}).") from error
    elif method == "zstd":
        import zstandard

        unpack_frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            for some in _slices(pieces):
                yield unpack_frame.decompress(some)
        except zstandard.ZstdError as error:
            raise DamagedObject(f"The dump does not decompress ({error}).") from error
    elif method == "lz4":
        import lz4.frame

        unpack_lz4 = lz4.frame.LZ4FrameDecompressor()
        try:
            for some in _slices(pieces):
                yield unpack_lz4.decompress(some, _UNPACKED_BYTES)
                while not (unpack_lz4.needs_input or unpack_lz4.eof):
                    yield unpack_lz4.decompress(b"", _UNPACKED_BYTES)
        except (RuntimeError, EOFError) as error:
            raise DamagedObject(f"The dump does not decompress ({error}).") from error
        if not unpack_lz4.eof:
            raise DamagedObject("The dump does not decompress (it is cut off).")
    elif method == "none":
        yield from pieces
    else:
        raise DumpRefused(
            f"A plain dump that was compressed with {method} is not read by pgkeep.",
            remedy=f"Fetch it (pgkeep dump fetch), unpack it with {method}, and run psql on it.",
        )


def _slices(pieces: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """Little at a time: what compresses well becomes a thousand times as much."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _PACKED_BYTES):
            yield bytes(view[start : start + _PACKED_BYTES])
