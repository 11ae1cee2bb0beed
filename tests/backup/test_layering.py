"""What a map would have a restore read in vain is bounded, and no more is stored again than needed
(invariant 30)."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pgkeep.backup.layering import HELD_BYTES, MOST_NAMED, Layers, pages_to_store_again
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress
from pgkeep.repository.map_rows import MapRows, overlay

PAGE = 8192
FRAME = 128


def address(number: int, pages: int) -> FrameAddress:
    return FrameAddress("ab" * 16, 1, number, number * 100, 90, pages * PAGE)


def whole(pages: int) -> MapRows:
    """A first copy: frames of 128 pages."""
    count = pages // FRAME
    return MapRows.of_map(
        FileMap(
            "base/5/1",
            pages * PAGE,
            [address(number, FRAME) for number in range(count)],
            [Extent(number * FRAME, FRAME, number, 0) for number in range(count)],
        )
    )


def with_changes(rows: MapRows, pages: list[int]) -> MapRows:
    """The map after these pages, ascending, were stored in frames of their own."""
    parts = [pages[start : start + FRAME] for start in range(0, len(pages), FRAME)]
    return overlay(
        rows,
        [address(1000 + number, len(part)) for number, part in enumerate(parts)],
        np.array(
            [
                (page, 1, number, at)
                for number, part in enumerate(parts)
                for at, page in enumerate(part)
            ]
        )
        .reshape(-1, 4)
        .T,
        size_bytes=rows.size_bytes,
        page_size=PAGE,
    )


def held_and_live(rows: MapRows) -> tuple[int, int]:
    data = rows.extents[2] != 0xFFFFFFFF
    return int(rows.frames[4].sum()) // PAGE, int(rows.extents[1][data].sum())


def deepest(rows: MapRows) -> int:
    """The most bytes of scattered frames over any page."""
    pages = rows.size_bytes // PAGE
    depth = np.zeros(pages + 1, dtype=np.int64)
    owner = rows.frames_of_pages(pages)[0]
    for frame, plain in enumerate(rows.frames[4].tolist()):
        where = np.flatnonzero(owner == frame)
        if len(where) and where[-1] - where[0] > 1024:
            depth[where[0] : where[-1]] += plain
    return int(depth.max())


def test_a_first_copy_is_left_alone() -> None:
    assert not len(pages_to_store_again(whole(4096), page_size=PAGE))
    empty = MapRows.of_map(FileMap("base/5/1", 0))
    assert not len(pages_to_store_again(empty, page_size=PAGE))


def test_up_to_the_bound_nothing_is_stored_again() -> None:
    rows = with_changes(whole(4096), [*range(0, 4096, 2)])  # half of it twice: 1.5 exactly
    assert held_and_live(rows) == (6144, 4096)
    assert not len(pages_to_store_again(rows, page_size=PAGE))


@pytest.mark.parametrize("seed", range(5))
def test_storing_what_is_asked_for_again_brings_every_map_within_bounds(seed: int) -> None:
    chance = random.Random(seed)
    rows, again_in_all, changed_in_all = whole(8192), 0, 0
    for _ in range(40):
        changed = sorted(chance.sample(range(8192), chance.randrange(1, 1200)))
        rows = with_changes(rows, changed)
        again = pages_to_store_again(rows, page_size=PAGE).tolist()
        assert again == sorted({*again})
        rows = with_changes(rows, again) if again else rows
        held, live = held_and_live(rows)
        assert held <= MOST_NAMED * live
        assert deepest(rows) <= HELD_BYTES
        again_in_all += len(again)
        changed_in_all += len(changed)
    assert again_in_all < 1.2 * changed_in_all, "what is stored again stays in proportion"


def test_frames_that_waste_most_go_first() -> None:
    rows = with_changes(whole(1024), [*range(100), *range(128, 1024, 2)])
    again = pages_to_store_again(rows, page_size=PAGE).tolist()
    assert again[:28] == [*range(100, 128)], "28 pages make up for a hundred"


def test_many_thin_layers_are_joined() -> None:
    chance = random.Random(1)
    rows = whole(65536)
    for _ in range(48):
        rows = with_changes(rows, sorted(chance.sample(range(65536), 120)))
    assert deepest(rows) > HELD_BYTES
    again = pages_to_store_again(rows, page_size=PAGE).tolist()
    rows = with_changes(rows, again)
    assert deepest(rows) <= HELD_BYTES


def with_holes(rows: MapRows, pages: list[int]) -> MapRows:
    """The map after these pages became zeros."""
    places = np.array([(page, 1, HOLE, 0) for page in pages]).reshape(-1, 4).T
    return overlay(rows, [], places, size_bytes=rows.size_bytes, page_size=PAGE)


def read_through(
    rows: MapRows, changed: list[int], *, zeros: list[int] | None = None, pages: int | None = None
) -> list[int]:
    """What is stored of a file that is read once, a run of 128 pages at a time: now it has
    ``pages``, and those in ``zeros`` are all zeros."""
    pages = pages or rows.size_bytes // PAGE
    layers, mask = Layers(rows, pages=pages, page_size=PAGE), np.zeros(pages, dtype=bool)
    empty = np.zeros(pages, dtype=bool)
    mask[changed], empty[zeros or []] = True, True
    runs = [slice(first, first + FRAME) for first in range(0, pages, FRAME)]
    stored = [
        run.start + np.flatnonzero(layers.widen(run.start, mask[run], empty[run]))
        for run in runs
        if mask[run].any()
    ]
    return np.concatenate(stored).tolist() if stored else []


@pytest.mark.parametrize("shares", [(0.25, 0.6), (0.7,), (0.3, 0.3, 0.3), (0.9, 0.9)])
def test_one_look_leaves_next_to_nothing_for_a_second(shares: tuple[float, ...]) -> None:
    chance = random.Random(len(shares))
    once = twice = whole(65536)
    for share in shares:
        changed = sorted(chance.sample(range(65536), int(65536 * share)))
        twice = with_changes(twice, changed)
        needed = pages_to_store_again(twice, page_size=PAGE).tolist()
        twice = with_changes(twice, needed) if needed else twice
        stored = read_through(once, changed)
        assert {*changed} <= {*stored}
        once = with_changes(once, stored)
        left = pages_to_store_again(once, page_size=PAGE).tolist()
        once = with_changes(once, left) if left else once
        assert len(left) < 0.05 * 65536
        assert len(stored) + len(left) < 1.1 * (len(changed) + len(needed))


def test_one_look_is_enough_where_half_of_the_file_was_zeros() -> None:
    rows = with_holes(whole(65536), [*range(32768, 65536)])
    changed = sorted(random.Random(1).sample(range(32768), 24000))
    stored = read_through(rows, changed, zeros=[*range(32768, 65536)])
    again = pages_to_store_again(with_changes(rows, stored), page_size=PAGE)
    assert len(again) < 0.05 * 32768


def test_one_look_is_enough_where_pages_became_zeros() -> None:
    emptied = [page for page in range(65536) if page % 10 < 4]
    changed = sorted({*emptied, *range(1, 65536, 4)})
    stored = read_through(whole(65536), changed, zeros=emptied)
    rows = with_holes(whole(65536), emptied)
    rows = with_changes(rows, sorted({*stored} - {*emptied}))
    assert len(pages_to_store_again(rows, page_size=PAGE)) < 0.1 * 65536


def test_one_look_stores_nothing_that_the_bound_does_not_ask_for() -> None:
    assert read_through(whole(65536), [*range(0, 12800, 2)]) == [*range(0, 12800, 2)]
    hot = [page for page in range(12800) if page % 5]  # four of five pages of a fifth of the file
    assert read_through(whole(65536), hot) == hot


def test_frames_of_what_was_cut_off_count_no_more() -> None:
    hot = [page for page in range(6400) if page % 5]
    assert read_through(whole(65536), hot, pages=32768) == hot
    rows = with_changes(whole(32768), hot)
    assert not len(pages_to_store_again(rows, page_size=PAGE)), "nor does the bound ask for more"


def test_a_page_beyond_what_the_parent_knew_is_no_matter() -> None:
    layers = Layers(whole(1024), pages=1100, page_size=PAGE)
    changed = np.ones(76, dtype=bool)
    assert layers.widen(1024, changed, np.zeros(76, dtype=bool)).all()
