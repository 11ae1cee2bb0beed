"""Work is cut so that workers finish together; small files are bundled to cost few requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, MapBlock, build_block
from pgkeep.repository.pack import PackInfo
from pgkeep.restore.assembling import region_pages
from pgkeep.restore.maps import FileBlock
from pgkeep.restore.units import BUNDLE_BYTES, BUNDLE_FILES, CUT_BYTES, Unit, tasks_of

PAGE = 8192
RUN = 128
REGION = region_pages(PAGE)
ATTEMPT = "ab" * 16


def block_of(maps: Sequence[FileMap]) -> FileBlock:
    block = MapBlock(build_block(maps, PAGE), "block")
    packs = {pack: PackInfo(*pack, 0, b"", b"", b"", b"") for pack in block.packs}
    numbers = list(range(len(maps)))
    return FileBlock("block", block, [100 + number for number in numbers], numbers, packs)


def tasks(maps: Sequence[FileMap]) -> list[list[Unit]]:
    return list(tasks_of(block_of(maps), region_pages=REGION))


def runs(pages: int, path: str = "base/5/1") -> FileMap:
    """A file as a full backup stores it."""
    one = FileMap(path, pages * PAGE)
    for first in range(0, pages, RUN):
        count = min(RUN, pages - first)
        one.extents.append(Extent(first, count, len(one.frames), 0))
        one.frames.append(FrameAddress(ATTEMPT, 1, first // RUN, first * 9, 1000, count * PAGE))
    return one


def scattered(one: FileMap, layers: int, share: float) -> FileMap:
    """The same file, of which each layer has changed a share of the pages, all over it."""
    owner = {page: (page // RUN, page % RUN) for page in range(one.size_bytes // PAGE)}
    chance = random.Random(1)
    for layer in range(layers):
        pages = sorted(chance.sample(range(len(owner)), int(len(owner) * share)))
        for start in range(0, len(pages), RUN):
            some = pages[start : start + RUN]
            owner |= {page: (len(one.frames), inside) for inside, page in enumerate(some)}
            plain = len(some) * PAGE
            one.frames.append(FrameAddress(ATTEMPT, 2 + layer, start, start * 9, 1000, plain))
    one.extents = [Extent(page, 1, *place) for page, place in sorted(owner.items())]
    return one


def test_a_full_gigabyte_is_cut_into_parts_of_64_mib() -> None:
    (task,) = tasks([runs((1 << 30) // PAGE)])
    parts = [unit.parts[0] for unit in task]
    assert [part.end - part.start for part in parts] == [CUT_BYTES // PAGE] * 16
    assert not any(part.whole for part in parts)
    assert {part.file for part in parts} == {100}


def test_parts_of_a_file_of_increments_share_few_frames() -> None:
    (task,) = tasks([scattered(runs((1 << 30) // PAGE), 10, 0.01)])
    assert 2 <= len(task) < 16
    for before, after in pairwise(task):
        border, frames = after.parts[0].start, after.frames
        assert before.parts[0].end == border
        rows = zip(frames.begin, frames.end, frames.plain, strict=True)
        crossing = sum(plain for begin, end, plain in rows if begin < border < end)
        assert 0 < crossing * 8 <= (border - before.parts[0].start) * PAGE


def test_a_file_of_thirty_increments_all_over_it_stays_nearly_whole() -> None:
    (task,) = tasks([scattered(runs((1 << 30) // PAGE), 30, 0.01)])
    assert 1 <= len(task) <= 4


def test_small_files_are_bundled_by_where_they_lie() -> None:
    chance = random.Random(1)
    places = chance.sample(range(600), 600)
    maps = [
        FileMap(
            f"base/{place}",
            PAGE,
            [FrameAddress(ATTEMPT, 1, place, place * 100, 90, PAGE)],
            [Extent(0, 1, 0, 0)],
        )
        for place in places
    ]
    bundles = [unit for task in tasks(maps) for unit in task]
    assert [len(unit.parts) for unit in bundles] == [BUNDLE_FILES, BUNDLE_FILES, 600 % 256]
    assert all(unit.bundled and part.whole for unit in bundles for part in unit.parts)
    offsets = [sorted(unit.frames.offset) for unit in bundles]
    assert [offset for some in offsets for offset in some] == [place * 100 for place in range(600)]
    assert sorted(part.file for unit in bundles for part in unit.parts) == list(range(100, 700))


def test_a_bundle_is_bounded_by_what_it_writes_and_by_what_it_reads() -> None:
    maps = [runs(300, f"base/{number}") for number in range(40)]
    for one in maps[20:]:
        one.size_bytes, one.extents = PAGE, [Extent(0, 1, 0, 0)]
        one.frames = [one.frames[0]._replace(stored=3 << 20)]
    bundles = [unit for task in tasks(maps) for unit in task]
    for unit in bundles:
        assert sum(part.size_bytes for part in unit.parts) <= BUNDLE_BYTES
        assert sum(unit.frames.stored) <= BUNDLE_BYTES
    assert len(bundles) < 20


def test_files_without_data_are_work_too() -> None:
    hole = FileMap("base/hole", 5 * PAGE, [], [Extent(0, 5, HOLE, 0)])
    large = FileMap("base/large", 1 << 30, [], [Extent(0, (1 << 30) // PAGE, HOLE, 0)])
    units = [unit for task in tasks([FileMap("base/empty", 0), hole, large]) for unit in task]
    ends = {(part.file, part.end) for unit in units for part in unit.parts}
    assert {(100, 0), (101, 5), (102, (1 << 30) // PAGE)} <= ends
