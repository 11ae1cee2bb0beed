"""Checksums of pieces add up to the checksum of the file, in whatever order the pieces came."""

from __future__ import annotations

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.restore import crc


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_pieces_combine(first: bytes, second: bytes) -> None:
    combined = crc.combine(crc.crc32c(first), crc.crc32c(second), len(second))
    assert combined == google_crc32c.value(first + second)


@given(st.integers(0, 5000))
def test_zeros_need_no_bytes(length: int) -> None:
    assert crc.zeros(length) == google_crc32c.value(bytes(length))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.integers(0, 100)), max_size=8))
def test_a_file_with_holes_has_the_checksum_of_its_bytes(parts: list[tuple[bytes, int]]) -> None:
    content, pieces = b"", []
    for data, hole in parts:
        pieces.append((len(content), len(data), crc.crc32c(data)))
        content += data + bytes(hole)
    assert crc.of_file(pieces, len(content)) == google_crc32c.value(content)


def test_large_lengths_are_no_trouble() -> None:
    assert crc.combine(0x12345678, 0, 1 << 40) == crc.combine(
        crc.combine(0x12345678, 0, 1 << 39), 0, 1 << 39
    )
