"""The pages of some files of a map block, as columns: what a restore works from.

``FileMap`` is right for a look at one file. For ten million frames one named tuple each would take
minutes and gigabytes, so here the same facts, and the same checks as a careful reader of a
``FileMap`` makes, are computed by numpy, for as many files at once as somebody works on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgkeep.repository.map import HOLE, MapBlock, MapColumns
from pgkeep.seal.envelope import damaged


class PageTable(NamedTuple):
    """Where pages are: row by row, ``pages`` pages from page ``inside`` of a frame are those of
    file ``slot`` from page ``first`` on.

    All are numpy arrays of int64 of one length. ``pack`` counts in the block's ``packs``;
    ``number``, ``offset``, ``stored`` and ``plain`` are the frame's, in bytes where they are sizes.
    ``frame`` is the frame's row in the block: no two maps share one, and of two frames of a map the
    newer has the higher. Pages that are zeros have no row.
    """

    slot: Any
    pack: Any
    number: Any
    offset: Any
    stored: Any
    plain: Any
    first: Any
    pages: Any
    inside: Any
    frame: Any


def page_table(block: MapBlock, slots: Sequence[int], *, name: str) -> PageTable:
    """The rows of the maps in ``slots``, map by map in this order, extents ascending.

    What it costs depends on these maps, not on what else is in the block. Raises ``DamagedObject``
    unless each of them covers its file, from the first page to the last, without overlap, from
    frames that reach that far. ``name`` is for errors.
    """
    import numpy as np

    columns = block.columns()
    if len(slots) and (min(slots) < 0 or max(slots) >= len(block)):
        raise damaged(name, "a map block has fewer maps than the manifest says")
    wanted = np.asarray(slots, dtype=np.int64)
    begin = columns.first_extent[wanted].astype(np.int64)
    counts = columns.first_extent[wanted + 1].astype(np.int64) - begin
    rows = _joined_ranges(begin, counts)
    first, pages, frame, inside = columns.extents[:, rows].astype(np.int64)
    _check_cover(columns.sizes[wanted], block.page_size, counts, rows=(first, pages), name=name)
    owner = np.repeat(wanted, counts)
    data = frame != HOLE
    owner, first, pages, frame, inside = (c[data] for c in (owner, first, pages, frame, inside))
    row = columns.first_frame[owner].astype(np.int64) + frame
    if (row >= columns.first_frame[owner + 1]).any():
        raise damaged(name, "a map names a frame that it does not list")
    frames = columns.frames[:, row].astype(np.int64)
    table = PageTable._make((owner, *frames, first, pages, inside, row))
    _check_frames(columns, block.page_size, table, name=name)
    return table


def _joined_ranges(begin: Any, counts: Any) -> Any:
    """[begin, begin + count) of each, one after the other."""
    import numpy as np

    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(begin - before, counts)


def _check_cover(
    sizes: Any, page_size: int, counts: Any, *, rows: tuple[Any, Any], name: str
) -> None:
    """Extents begin at page 0, follow on each other and end with the file, map by map."""
    import numpy as np

    first, pages = rows
    ends = np.cumsum(counts)
    sums = np.concatenate(([0], np.cumsum(pages)))
    before = sums[ends - counts]
    # Within a map a page's place is the number of pages before it.
    wrong = first != sums[:-1] - np.repeat(before, counts)
    short = sums[ends] - before != _pages_of(sizes, page_size)
    if (pages < 1).any() or wrong.any() or short.any():
        raise damaged(name, "a map does not cover its file")


def _pages_of(sizes: Any, page_size: int) -> Any:
    import numpy as np

    full, rest = np.divmod(sizes, np.uint64(page_size))
    return full.astype(np.int64) + (rest > 0)


def _check_frames(columns: MapColumns, page_size: int, table: PageTable, *, name: str) -> None:
    """Every frame holds what is taken from it; a file may end within its last page."""
    import numpy as np

    # A size above 2**63 has failed to be covered already: pages are 32-bit numbers.
    size = columns.sizes[table.slot].astype(np.int64)
    end = np.minimum((table.first + table.pages) * page_size, size)
    if (table.inside * page_size + end - table.first * page_size > table.plain).any():
        raise damaged(name, "an extent reaches beyond its frame")
