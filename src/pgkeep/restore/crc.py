"""CRC-32C of a file that is written in pieces, holes among them.

``backup_manifest`` wants one checksum a file. Each piece is hashed while it is in the processor's
cache, and nothing is read again. A CRC is linear, so two things cost no bytes: a run of zeros, and
that other bytes follow. For both, running a CRC over zeros is a multiplication by a power of x
modulo the polynomial (Mark Adler's ``crc32_combine`` in zlib).

Registers are bit-reflected, as in the hardware: bit 31 is x^0.
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31
_MASK = 0xFFFFFFFF
_ZEROS = bytes(64 << 10)
# The hardware has gone over so many zeros by the time that Python has found a power of x.
_FEW_ZEROS = 16 * len(_ZEROS)


def crc32c(data: bytes | memoryview, value: int = 0) -> int:
    """The CRC-32C of some bytes, by the processor's instruction where it has one.

    With ``value``, the checksum of what came before: that of both together.
    """
    from crc32c import crc32c as of_bytes

    return int(of_bytes(data, value))


def with_zeros(checksum: int, length: int) -> int:
    """The checksum of bytes and so many zeros behind them."""
    if length > _FEW_ZEROS:
        return _multiply(_power(length), checksum ^ _MASK) ^ _MASK
    for start in range(0, length, len(_ZEROS)):
        checksum = crc32c(memoryview(_ZEROS)[: length - start], checksum)
    return checksum


def part_of(checksum: int, following: int) -> int:
    """What a piece contributes to the checksum of a file, when so many bytes follow it.

    The file's checksum is the exclusive or of its pieces' parts, in whatever order they came.
    """
    return _multiply(_power(following), checksum) if following else checksum


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
