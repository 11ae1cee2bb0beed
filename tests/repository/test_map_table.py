"""The columns of a map block say what its maps say one by one, and refuse what they refuse."""

from __future__ import annotations

import os
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, MapBlock, build_block
from pgkeep.repository.map_table import page_table

PAGE = 8192


@st.composite
def sound_maps(draw: st.DrawFn) -> FileMap:
    """A map as a backup makes it: runs of pages from frames, and holes."""
    one = FileMap(draw(st.sampled_from(["base/1", "pg_xact/0000", "ü"])), 0)
    page = 0
    for _ in range(draw(st.integers(0, 6))):
        pages = draw(st.integers(1, 200))
        if draw(st.booleans()):
            one.extents.append(Extent(page, pages, HOLE, 0))
        else:
            inside = draw(st.integers(0, 5))
            attempt = draw(st.sampled_from(["ab" * 16, "cd" * 16]))
            pack, number, offset, stored = (draw(st.integers(0, 1 << 31)) for _ in range(4))
            one.extents.append(Extent(page, pages, len(one.frames), inside))
            plain = (inside + pages) * PAGE
            one.frames.append(FrameAddress(attempt, pack, number, offset, stored, plain))
        page += pages
    one.size_bytes = max(0, page * PAGE - draw(st.sampled_from([0, 1, PAGE - 1])))
    return one


def rows_of(block: MapBlock, slot: int) -> list[tuple[object, ...]]:
    before = sum(len(block[earlier].frames) for earlier in range(slot))
    one = block[slot]
    return [
        (
            *(slot, *one.frames[extent.frame]),
            *(extent.first, extent.pages, extent.page_in_frame, before + extent.frame),
        )
        for extent in one.extents
        if extent.frame != HOLE
    ]


@settings(deadline=None)
@given(st.lists(sound_maps(), min_size=1, max_size=5), st.data())
def test_columns_say_what_the_maps_say(maps: list[FileMap], data: st.DataObject) -> None:
    block = MapBlock(build_block(maps, PAGE), "block")
    slots = data.draw(st.lists(st.integers(0, len(maps) - 1), unique=True))
    table = page_table(block, slots, name="block")
    found = [
        (slot, *block.packs[pack], *rest)
        for slot, pack, *rest in zip(*(column.tolist() for column in table), strict=True)
    ]
    assert found == [row for slot in slots for row in rows_of(block, slot)]


def one_map(extents: list[Extent], *, size: int, plain: int = 10 * PAGE) -> MapBlock:
    frame = FrameAddress("ab" * 16, 1, 0, 100, 50, plain)
    return MapBlock(build_block([FileMap("x", size, [frame], extents)], PAGE), "block")


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ([Extent(1, 1, 0, 0)], PAGE),
        ([Extent(0, 1, 0, 0)], 2 * PAGE),
        ([Extent(0, 3, 0, 0)], 2 * PAGE),
        ([Extent(0, 1, 0, 0), Extent(2, 1, 0, 0)], 3 * PAGE),
        ([Extent(0, 2, 0, 0), Extent(1, 1, 0, 0)], 2 * PAGE),
        ([Extent(0, 0, 0, 0), Extent(0, 1, 0, 0)], PAGE),
        ([Extent(0, 1, 1, 0)], PAGE),
        ([Extent(0, 1, HOLE - 1, 0)], PAGE),
        ([Extent(0, 1, 0, 10)], PAGE),
        ([Extent(0, 1, 0, 0xFFFFFFFF)], PAGE),
        ([Extent(0, 11, 0, 0)], 11 * PAGE),
        ([], 1),
        ([], (1 << 64) - 1),
        ([Extent(0, 0xFFFFFFFF, HOLE, 0), Extent(0xFFFFFFFF, 2, HOLE, 0)], (1 << 64) - 1),
        ([Extent(0, 1, 0, 0)], 0),
    ],
)
def test_a_map_that_does_not_cover_its_file_is_refused(extents: list[Extent], size: int) -> None:
    with pytest.raises(DamagedObject):
        page_table(one_map(extents, size=size), [0], name="block")


def test_a_wrong_map_hurts_only_who_asks_for_it() -> None:
    frame = FrameAddress("ab" * 16, 1, 0, 100, 50, PAGE)
    wrong = FileMap("wrong", 5 * PAGE, [frame], [Extent(0, 1, 0, 0)])
    right = FileMap("right", PAGE, [frame], [Extent(0, 1, 0, 0)])
    block = MapBlock(build_block([wrong, right], PAGE), "block")
    assert page_table(block, [1], name="block").slot.tolist() == [1]
    with pytest.raises(DamagedObject):
        page_table(block, [0, 1], name="block")


@pytest.mark.parametrize("slot", [-1, 1, 1 << 40])
def test_a_slot_that_is_not_there_is_damage(slot: int) -> None:
    block = one_map([Extent(0, 1, 0, 0)], size=PAGE)
    with pytest.raises(DamagedObject):
        page_table(block, [slot], name="block")
    with pytest.raises(DamagedObject):
        block[slot]


def test_a_last_short_page_needs_only_its_bytes() -> None:
    block = one_map([Extent(0, 2, 0, 0)], size=PAGE + 5, plain=PAGE + 5)
    assert page_table(block, [0], name="block").pages.tolist() == [2]
    with pytest.raises(DamagedObject):
        page_table(one_map([Extent(0, 2, 0, 0)], size=PAGE + 5, plain=PAGE + 4), [0], name="b")


@settings(max_examples=300, deadline=None)
@given(st.lists(sound_maps(), min_size=1, max_size=3), st.data())
def test_a_block_with_changed_bytes_is_damage_or_readable(
    maps: list[FileMap], data: st.DataObject
) -> None:
    """Indices out of range never become an IndexError, nor an array of gigabytes."""
    block = bytearray(build_block(maps, PAGE))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(block) // 4 - 1)) * 4
        value = data.draw(st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF]))
        block[at : at + 4] = struct.pack("<I", value)
    try:
        parsed = MapBlock(bytes(block), "block")
        assert len(list(parsed)) == len(parsed)
        page_table(parsed, range(len(parsed)), name="block")
    except DamagedObject:
        pass


def test_ten_terabytes_of_maps_are_planned_in_seconds() -> None:
    """10,240 maps of 1024 frames: here a fiftieth of them, in a fiftieth of twenty seconds."""
    frames = [FrameAddress("ab" * 16, n // 32, n % 32, n * 9, 9, 1 << 20) for n in range(1024)]
    extents = [Extent(n * 128, 128, n, 0) for n in range(1024)]
    data = build_block([FileMap("base/5/16384", 1 << 30, frames, extents)], PAGE)
    began = time.process_time()
    for _ in range(205):
        assert len(page_table(MapBlock(data, "block"), [0], name="block").pages) == 1024
    assert time.process_time() - began < 20 / 50


def test_paths_are_bytes_whatever_the_locale() -> None:
    path = os.fsdecode(b"base/\xff\xfe")
    assert [one.path for one in MapBlock(build_block([FileMap(path, 0)], PAGE), "b")] == [path]
