"""Promise: every implementation says the same of every page, and what it says is true.

The hash is keyed BLAKE3 as the ``blake3`` package computes it; a bit that is flipped anywhere
fails its page and no other; holes are all-zero pages. That checksums are those of real
servers is the promise of ``test_page_of_real_servers.py``.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.page import (
    FailedPage,
    PageScan,
    PageState,
    page_lsn,
    parse_page_header,
    scan_pages,
)
from tests.postgres.pages import ALL, KEY, PAGE_SIZES, made_page, noise, one_verdict, sound_page

each_implementation = pytest.mark.parametrize("implementation", ALL)
each_page_size = pytest.mark.parametrize("page_size", PAGE_SIZES)
few_examples = settings(max_examples=60, deadline=None)
page_sizes = st.sampled_from(PAGE_SIZES)
kinds = st.sampled_from(["zero", "noise", "new, not zero", "sound", "moved", "flipped"])


@st.composite
def runs(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """Pages of every kind, and perhaps a partial one at the end; page size; first block."""
    page_size = draw(page_sizes)
    first_block = draw(st.integers(0, 2**32 - 1))
    chosen = draw(st.lists(kinds, max_size=40))
    seed = draw(st.integers(0, 2**32))
    pages = [
        made_page(kind, page_size, (first_block + i) % 2**32, seed + i)
        for i, kind in enumerate(chosen)
    ]
    tail = draw(st.integers(0, page_size - 1))
    pages.append(draw(st.sampled_from([bytes(tail), noise(tail, seed=seed)])))
    return b"".join(pages), page_size, first_block


# -- hashes ------------------------------------------------------------------------------------


@few_examples
@given(
    page_size=page_sizes,
    pages=st.integers(0, 40),
    tail=st.integers(0, 32767),
    offset=st.integers(0, 65),
    key=st.binary(min_size=32, max_size=32),
    seed=st.integers(0, 2**32),
)
def test_a_hash_is_keyed_blake3_of_the_page_at_any_alignment(
    page_size: int, pages: int, tail: int, offset: int, key: bytes, seed: int
) -> None:
    raw = noise(offset + pages * page_size + tail % page_size, seed=seed)
    data = memoryview(raw)[offset:]
    expected = b"".join(
        blake3(data[start : start + page_size], key=key).digest(length=8)
        for start in range(0, len(data), page_size)
    )
    for name in ALL:
        scan = scan_pages(data, key=key, page_size=page_size, verify=False, implementation=name)
        assert scan.hashes == expected, name


@each_implementation
@each_page_size
def test_every_length_of_a_last_page_has_its_own_hash(page_size: int, implementation: str) -> None:
    edges = {
        near + step for near in range(0, page_size + 1, 512) for step in (-65, -64, -63, -1, 0, 1)
    }
    data = noise(page_size)
    for length in sorted(edge for edge in edges if 0 < edge <= page_size):
        scan = scan_pages(
            data[:length],
            key=KEY,
            page_size=page_size,
            verify=False,
            implementation=implementation,
        )
        assert scan.hashes == blake3(data[:length], key=KEY).digest(length=8), length


def test_the_hash_of_one_page_is_found_by_its_index() -> None:
    data = noise(3 * 8192)
    scan = scan_pages(data, key=KEY, verify=False)
    assert scan.page_count == 3
    assert scan.hash_of(1) == blake3(data[8192:16384], key=KEY).digest(length=8)
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            scan.hash_of(outside)


# -- verdicts ----------------------------------------------------------------------------------


@settings(few_examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(run=runs(), verify=st.booleans())
def test_all_implementations_agree(run: tuple[bytes, int, int], verify: bool) -> None:
    data, page_size, first_block = run
    one_verdict(data, key=KEY, page_size=page_size, first_block=first_block, verify=verify)


@each_page_size
def test_each_kind_of_page_has_its_state(page_size: int) -> None:
    order = ["zero", "sound", "moved", "new, not zero", "flipped", "sound", "zero"]
    data = b"".join(made_page(kind, page_size, 7 + i, i) for i, kind in enumerate(order))
    scan = one_verdict(data, key=KEY, page_size=page_size, first_block=7)
    bad, new = PageState.CHECKSUM_MISMATCH, PageState.INVALID_NEW
    assert list(scan.states) == [PageState.ZERO, PageState.DATA, bad, new, bad, 0, PageState.ZERO]
    assert [(page.index, page.kind) for page in scan.failed] == [(2, bad), (3, new), (4, bad)]


@settings(few_examples, derandomize=True)
@given(
    page_size=page_sizes,
    block=st.integers(0, 2**32 - 6),
    index=st.integers(0, 4),
    bit=st.integers(0, 32768 * 8 - 1),
)
def test_a_flipped_bit_fails_exactly_its_page(
    page_size: int, block: int, index: int, bit: int
) -> None:
    data = bytearray(b"".join(sound_page(page_size, block + i, seed=i) for i in range(5)))
    assert one_verdict(bytes(data), key=KEY, page_size=page_size, first_block=block).failed == ()
    position = index * page_size + bit // 8 % page_size
    data[position] ^= 1 << bit % 8
    (failed,) = one_verdict(bytes(data), key=KEY, page_size=page_size, first_block=block).failed
    assert failed == FailedPage(
        index, page_lsn(data, index * page_size), PageState.CHECKSUM_MISMATCH
    )


@given(page_size=page_sizes, position=st.integers(0, 32767), value=st.integers(1, 255))
@few_examples
def test_a_new_page_must_be_all_zero(page_size: int, position: int, value: int) -> None:
    position %= page_size
    assume(position not in (14, 15))  # pd_upper itself: then it is no new page
    page = bytearray(page_size)
    assert one_verdict(bytes(page), key=KEY, page_size=page_size).failed == ()
    page[position] = value
    (failed,) = one_verdict(bytes(page), key=KEY, page_size=page_size).failed
    assert failed.kind is PageState.INVALID_NEW


def test_a_failed_page_says_its_lsn() -> None:
    page = bytearray(8192)
    struct.pack_into("=II", page, 0, 0x16, 0xB374D848)
    struct.pack_into("=H", page, 14, 100)
    (failed,) = one_verdict(bytes(8192) + bytes(page), key=KEY).failed
    assert (failed.index, str(failed.lsn)) == (1, "16/B374D848")


def test_without_verification_a_page_is_data_or_zero() -> None:
    data = b"".join(made_page(kind, 8192, 0, 1) for kind in ("zero", "noise", "new, not zero"))
    scan = one_verdict(data, key=KEY, verify=False)
    assert (scan.states, scan.failed) == (b"\x01\x00\x00", ())


def test_a_partial_page_is_never_failed() -> None:
    data = sound_page(8192, 0) + noise(8191)
    assert one_verdict(data, key=KEY).states == bytes([PageState.DATA, PageState.DATA])
    data = sound_page(8192, 0) + bytes(8191)
    assert one_verdict(data, key=KEY).states == bytes([PageState.DATA, PageState.ZERO])


def test_the_block_number_wraps_as_in_the_server() -> None:
    data = sound_page(8192, 2**32 - 1) + sound_page(8192, 0)
    assert one_verdict(data, key=KEY, first_block=2**32 - 1).failed == ()


# -- holes -------------------------------------------------------------------------------------


@given(zeros=st.lists(st.booleans(), max_size=60))
@few_examples
def test_zero_runs_are_the_all_zero_pages_joined(zeros: list[bool]) -> None:
    data = b"".join(bytes(1024) if zero else b"\0" * 1023 + b"x" for zero in zeros)
    scan = one_verdict(data, key=KEY, page_size=1024, verify=False)
    spans = list(scan.zero_runs())
    covered = [index for first, end in spans for index in range(first, end)]
    assert covered == [index for index, zero in enumerate(zeros) if zero]
    assert all(end < first for (_, end), (first, _) in pairwise(spans))
    assert scan.is_all_zero == all(zeros)


@each_implementation
def test_no_bytes_are_no_pages(implementation: str) -> None:
    scan = scan_pages(b"", key=KEY, implementation=implementation)
    assert scan == PageScan(hashes=b"", states=b"", failed=())


# -- headers -----------------------------------------------------------------------------------


def test_a_header_is_read_where_the_page_starts() -> None:
    raw = struct.pack("=IIHHHHHHI", 1, 2, 3, 4, 24, 8000, 8192, 8192 | 4, 77)
    header = parse_page_header(b"x" * 5 + raw, 5)
    assert header.lsn == Lsn(0x1_0000_0002) == page_lsn(b"x" * 5 + raw, 5)
    assert (header.checksum, header.flags, header.prune_xid) == (3, 4, 77)
    assert (header.lower, header.upper, header.special) == (24, 8000, 8192)
    assert (header.page_size, header.layout_version, header.is_new) == (8192, 4, False)
    with pytest.raises(ValueError, match="24 bytes"):
        parse_page_header(raw[:-1])
