"""Checksums of pieces add up to the checksum of the file, in whatever order the pieces came."""

from __future__ import annotations

from functools import reduce
from operator import xor

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.restore import crc

FEW = 1 << 20


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_the_parts_of_pieces_make_the_checksum_of_the_file(pieces: list[bytes]) -> None:
    ends = [sum(map(len, pieces[number + 1 :])) for number in range(len(pieces))]
    parts = [crc.part_of(crc.crc32c(p), end) for p, end in zip(pieces, ends, strict=True)]
    assert reduce(xor, reversed(parts), 0) == google_crc32c.value(b"".join(pieces))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_checksum_can_be_carried_along(first: bytes, second: bytes) -> None:
    assert crc.crc32c(second, crc.crc32c(first)) == google_crc32c.value(first + second)


@given(
    st.binary(max_size=50),
    st.one_of(
        st.integers(0, 5000),
        st.sampled_from([65535, 65536, 65537, FEW - 1, FEW, FEW + 1, 3 * FEW]),
    ),
)
def test_zeros_behind_need_no_bytes(data: bytes, length: int) -> None:
    assert crc.with_zeros(crc.crc32c(data), length) == google_crc32c.value(data + bytes(length))


def test_large_lengths_are_no_trouble() -> None:
    half = crc.with_zeros(0x12345678, 1 << 39)
    assert crc.with_zeros(0x12345678, 1 << 40) == crc.with_zeros(half, 1 << 39)
    assert crc.part_of(crc.part_of(0x12345678, 1 << 39), 1 << 39) == crc.part_of(
        0x12345678, 1 << 40
    )
