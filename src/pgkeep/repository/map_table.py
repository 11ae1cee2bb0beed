"""All pages of all files of a map block, as columns: what a restore of 10 TB plans with.

``FileMap`` is right for one file. For ten million frames one named tuple each would take minutes
and gigabytes, so here the same facts, and the same checks as a careful reader of a ``FileMap``
makes, are computed by numpy for a whole block.
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
    Pages that are zeros have no row.
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


def page_table(block: MapBlock, slots: Sequence[int], *, name: str) -> PageTable:
    """The rows of the maps in ``slots``, map by map in the block's order, extents ascending.

    Raises ``DamagedObject`` unless each of these maps covers its file, from the first page to the
    last, without overlap, from frames that reach that far. ``name`` is for errors.
    """
    import numpy as np

    columns = block.columns()
    wanted = np.zeros(len(block), dtype=bool)
    if len(slots) and (min(slots) < 0 or max(slots) >= len(block)):
        raise damaged(name, "a map block has fewer maps than the manifest says")
    wanted[np.asarray(slots, dtype=np.int64)] = True
    counts = np.diff(columns.first_extent.astype(np.int64))
    owner = np.repeat(np.arange(len(block)), counts)
    first, pages, frame, inside = columns.extents[:, : len(owner)].astype(np.int64)
    chosen = wanted[owner]
    owner, first, pages, frame, inside = (c[chosen] for c in (owner, first, pages, frame, inside))
    _check_cover(columns, block.page_size, wanted, rows=(owner, first, pages), name=name)
    data = frame != HOLE
    owner, first, pages, frame, inside = (c[data] for c in (owner, first, pages, frame, inside))
    row = columns.first_frame[owner].astype(np.int64) + frame
    if (row >= columns.first_frame[owner + 1]).any():
        raise damaged(name, "a map names a frame that it does not list")
    frames = columns.frames[:, row].astype(np.int64)
    table = PageTable._make((owner, *frames, first, pages, inside))
    _check_frames(columns, block.page_size, table, name=name)
    return table


def _check_cover(
    columns: MapColumns, page_size: int, wanted: Any, *, rows: tuple[Any, Any, Any], name: str
) -> None:
    """Extents begin at page 0, follow on each other and end with the file."""
    import numpy as np

    owner, first, pages = rows
    begins = np.ones(len(owner), dtype=bool)
    begins[1:] = owner[1:] != owner[:-1]
    expected = np.zeros(len(owner), dtype=np.int64)
    expected[1:] = first[:-1] + pages[:-1]
    expected[begins] = 0
    covered = np.zeros(len(wanted), dtype=np.int64)
    np.add.at(covered, owner, pages)
    wrong = (covered != _pages_of(columns, page_size))[wanted]
    if (pages < 1).any() or (first != expected).any() or wrong.any():
        raise damaged(name, "a map does not cover its file")


def _pages_of(columns: MapColumns, page_size: int) -> Any:
    import numpy as np

    full, rest = np.divmod(columns.sizes, np.uint64(page_size))
    return full.astype(np.int64) + (rest > 0)


def _check_frames(columns: MapColumns, page_size: int, table: PageTable, *, name: str) -> None:
    """Every frame holds what is taken from it; a file may end within its last page."""
    import numpy as np

    # A size above 2**63 has failed to be covered already: pages are 32-bit numbers.
    size = columns.sizes[table.slot].astype(np.int64)
    end = np.minimum((table.first + table.pages) * page_size, size)
    if (table.inside * page_size + end - table.first * page_size > table.plain).any():
        raise damaged(name, "an extent reaches beyond its frame")
