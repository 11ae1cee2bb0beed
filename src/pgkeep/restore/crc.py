"""CRC-32C of a file whose pieces arrive in any order.

``backup_manifest`` wants one checksum a file, and frames land as the packs hold them. A CRC is
linear: that of two pieces follows from theirs and the second's length, since running a CRC over
zeros is a multiplication by a power of x modulo the polynomial (Mark Adler's ``crc32_combine`` in
zlib). So each piece is hashed while it is in the cache, and nothing is read again. A factor is
computed once for each length; nearly all pieces are 1 MiB, so the Python below runs a few
microseconds for each piece.

Registers are bit-reflected, as in the hardware: bit 31 is x^0.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31
_MASK = 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of some bytes, by the processor's instruction where it has one."""
    from crc32c import crc32c as of_bytes

    return int(of_bytes(data))


def combine(first: int, second: int, second_length: int) -> int:
    """The checksum of two pieces after one another, from the checksum of each."""
    return _multiply(_power(second_length), first) ^ second


def zeros(length: int) -> int:
    """The checksum of so many zero bytes."""
    return _multiply(_power(length), _MASK) ^ _MASK


def of_file(pieces: Iterable[tuple[int, int, int]], size_bytes: int) -> int:
    """The checksum of a file from (offset, length, checksum) of its pieces, in order of offset.

    What no piece covers is zeros.
    """
    crc, at = 0, 0
    for offset, length, checksum in pieces:
        if offset > at:
            crc = combine(crc, zeros(offset - at), offset - at)
        crc = combine(crc, checksum, length)
        at = offset + length
    return combine(crc, zeros(size_bytes - at), size_bytes - at) if size_bytes > at else crc


@lru_cache(maxsize=4096)
def _power(length: int) -> int:
    """x^(8 × length) modulo the polynomial."""
    result, square, bits = _ONE, _ONE >> 8, length
    while bits:
        if bits & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        bits >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials modulo the CRC's."""
    product = 0
    bit = _ONE
    while bit:
        if a & bit:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        bit >>= 1
    return product
