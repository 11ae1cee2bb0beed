"""A successor's map takes each page from where it is newest, and names nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, MapBlock, build_block
from pgkeep.repository.map_rows import MapRows, overlay

PAGE = 8192
# Where a page is: (frame number in pack 1 of attempt "aa…", page in that frame), or None for zeros.
Place = tuple[int, int] | None


def address(number: int) -> FrameAddress:
    return FrameAddress("ab" * 16, 1 + number // 3, number, number * 1000, 900, 64 * PAGE)


def places(rows: MapRows) -> list[Place]:
    """Page by page, with frames by their number in the pack."""
    found: list[Place] = []
    for first, pages, frame, inside in rows.extents.T.tolist():
        assert first == len(found)
        number = None if frame == HOLE else int(rows.frames[1][frame])
        found += [None if number is None else (number, inside + at) for at in range(pages)]
    return found


def columns(*extents: Extent) -> Any:
    """Extents as ``overlay`` takes them."""
    return np.array(extents, dtype=np.int64).reshape(-1, 4).T


def nothing(size: int = 0) -> MapRows:
    return MapRows.of_map(FileMap("base/5/1", size))


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[int, list[int], bool]]:
    """Rounds of (length in pages, pages that change, whether they become zeros)."""
    rounds = draw(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=6))
    return [
        (length, sorted(draw(st.sets(st.integers(0, max(length - 1, 0)), max_size=length))), zeros)
        for length, zeros in rounds
    ]


@settings(max_examples=200, deadline=None)
@given(changes())
def test_any_succession_of_changes_ends_where_a_model_says(
    rounds: list[tuple[int, list[int], bool]],
) -> None:
    rows, model = nothing(), list[Place]()
    for number, (length, changed, zeros) in enumerate(rounds):
        pages = sorted({*changed, *range(len(model), length)} & {*range(length)})
        model = (model + [None] * length)[:length]
        extents = []
        for inside, page in enumerate(pages):
            extents.append(Extent(page, 1, HOLE if zeros else 0, 0 if zeros else inside))
            model[page] = None if zeros else (number, inside)
        frames = [] if zeros else [address(number)]
        rows = overlay(rows, frames, columns(*extents), size_bytes=length * PAGE, page_size=PAGE)
        assert places(rows) == model
        named = {place[0] for place in model if place}
        assert rows.frames[1].tolist() == sorted(named), "used frames only, oldest first"
        assert {*rows.packs} == {(address(one).attempt, address(one).pack) for one in named}


def test_neighbours_are_one_extent() -> None:
    rows = overlay(
        nothing(),
        [address(0)],
        columns(
            Extent(0, 3, 0, 0), Extent(3, 2, 0, 3), Extent(5, 4, HOLE, 0), Extent(9, 1, HOLE, 0)
        ),
        size_bytes=10 * PAGE,
        page_size=PAGE,
    )
    assert rows.extents.T.tolist() == [[0, 5, 0, 0], [5, 5, HOLE, 0]]


def test_a_page_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        overlay(nothing(), [], columns(), size_bytes=PAGE, page_size=PAGE)


def test_marks_of_failed_pages_stay_with_pages_that_stay() -> None:
    old = MapRows.of_map(
        FileMap("base/5/1", 9 * PAGE, [address(0)], [Extent(0, 9, 0, 0)], failed=[1, 4, 8])
    )
    new = overlay(
        old, [address(1)], columns(Extent(4, 1, 0, 0)), size_bytes=6 * PAGE, page_size=PAGE
    )
    assert new.failed.tolist() == [1]


def test_rows_and_maps_make_the_same_block() -> None:
    maps = [
        FileMap("base/5/1", 0),
        FileMap(
            "base/5/2",
            70 * PAGE,
            [address(0), address(5)],
            [Extent(0, 64, 0, 0), Extent(64, 2, HOLE, 0), Extent(66, 4, 1, 3)],
            failed=[3, 67],
        ),
        FileMap("base/5/3", 10, [address(4)], [Extent(0, 1, 0, 0)]),
    ]
    whole = build_block(maps, PAGE)
    assert build_block([MapRows.of_map(one) for one in maps], PAGE) == whole
    block = MapBlock(whole, "a test")
    again = [MapRows.of_block(block, slot) for slot in range(len(maps))]
    assert build_block(again, PAGE) == whole


def test_pages_of_some_packs_are_found() -> None:
    old = MapRows.of_map(
        FileMap(
            "base/5/1",
            8 * PAGE,
            [address(0), address(5)],
            [Extent(0, 3, 0, 0), Extent(3, 1, HOLE, 0), Extent(4, 4, 1, 0)],
        )
    )
    second = frozenset({(address(5).attempt, address(5).pack)})
    assert old.pages_in(second, 8).nonzero()[0].tolist() == [4, 5, 6, 7]
    assert not old.pages_in(frozenset({("ee" * 16, 1)}), 8).any()
