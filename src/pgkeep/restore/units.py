"""What a restore's workers take: files, cut or bundled so that each has a sensible amount to do.

Writing a file wants all that it consists of in the order of its pages, however many backups it
comes from; so the unit of work is a file, and not a stretch of a pack. (Tried: packs from front
to back. It reads each pack once, and writes what thirty increments hold page by page, hundreds of
thousands of times 8 KiB through the page cache.)

A large file is a task of its own. It is cut into parts, so that the last one need not leave a core
idle. Frames that reach across a cut are opened on both sides of it if two workers take these, so
cuts are where that is at most an eighth of the work: far apart where increments reach far.
Small files of a block, whose frames lie beside each other in the packs, are bundled: what all of
them need is fetched at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from pgkeep.repository.map_table import PageTable, page_table
from pgkeep.repository.pack import PackInfo
from pgkeep.restore.maps import FileBlock
from pgkeep.seal.envelope import MAX_FRAME, damaged

SMALL_BYTES = 4 << 20
BUNDLE_BYTES = 8 << 20
BUNDLE_FILES = 256
CUT_BYTES = 64 << 20
_CUT_SHARE = 8
_MAX_STORED = MAX_FRAME + (MAX_FRAME >> 7)


class Frames(NamedTuple):
    """The frames that hold live pages of some files; of two frames of a file the newer comes later.

    Lists (``packs``, and the frame's ``number``, ``offset``, ``stored`` and ``plain`` bytes) and
    numpy arrays, in pages: how many a frame has (``pages``), from which on and up to which its file
    needs it (``begin``, ``end``), and where in the file its first page would stand (``shift``), or
    -1 if its live pages stand at various distances from their places in the frame.
    """

    packs: list[PackInfo]
    number: list[int]
    offset: list[int]
    stored: list[int]
    plain: list[int]
    pages: Any
    begin: Any
    end: Any
    shift: Any


class FilePart(NamedTuple):
    """Pages [``start``, ``end``) of a file; all of it, or what lies between two cuts.

    The arrays are its extents, ascending: ``pages`` pages of the file from ``first`` are those from
    ``inside`` of ``frame``, which counts in the unit's frames. What has no extent is zeros.
    """

    file: int
    size_bytes: int
    start: int
    end: int
    whole: bool
    first: Any
    pages: Any
    frame: Any
    inside: Any


class Unit(NamedTuple):
    """What one worker does in one go. ``bundled``: all frames are to be fetched at once."""

    frames: Frames
    parts: list[FilePart]
    bundled: bool


def tasks_of(found: FileBlock, *, region_pages: int) -> Iterator[list[Unit]]:
    """The work that a map block comes to: large files first, each as the units it is cut into.

    Cuts are at multiples of ``region_pages``. Raises ``DamagedObject``, as ``page_table`` does.
    """
    sizes, stored, places = _facts_of(found)
    small = (sizes < SMALL_BYTES) & (stored <= BUNDLE_BYTES)
    for index in (~small).nonzero()[0].tolist():
        yield _large(found, index, region_pages)
    bundle: list[int] = []
    weight = 0
    for index in places[small[places]].tolist():
        more = max(int(sizes[index]), int(stored[index]))
        if bundle and (weight + more > BUNDLE_BYTES or len(bundle) == BUNDLE_FILES):
            yield [_bundle(found, bundle)]
            bundle, weight = [], 0
        bundle.append(index)
        weight += more
    if bundle:
        yield [_bundle(found, bundle)]


def _facts_of(found: FileBlock) -> tuple[Any, Any, Any]:
    """Sizes of the wanted files, stored bytes of their frames, and the files by where these are."""
    import numpy as np

    columns = found.block.columns()
    slots = np.asarray(found.slots, dtype=np.int64)
    pack, _, offset, stored, _ = columns.frames.astype(np.int64)
    sums = np.concatenate(([0], np.cumsum(stored)))
    begin = columns.first_frame[slots].astype(np.int64)
    end = columns.first_frame[slots + 1].astype(np.int64)
    pack, offset = np.append(pack, 0), np.append(offset, 0)
    return columns.sizes[slots], sums[end] - sums[begin], np.lexsort((offset[begin], pack[begin]))


def _large(found: FileBlock, index: int, region_pages: int) -> list[Unit]:
    table = page_table(found.block, [found.slots[index]], name=found.name)
    frames, frame = _frames_of(table, found)
    size = int(found.block.columns().sizes[found.slots[index]])
    page_size = found.block.page_size
    pages = -(-size // page_size)
    cuts = [0, *_cuts(frames, pages, region_pages=region_pages, page_size=page_size), pages]
    row = (table.first, table.pages, frame, table.inside)
    parts = [
        FilePart(found.files[index], size, start, end, len(cuts) == 2, *row)
        for start, end in pairwise(cuts)
    ]
    return [Unit(frames, [part], False) for part in parts]


def _bundle(found: FileBlock, indexes: list[int]) -> Unit:
    indexes = sorted(indexes, key=found.slots.__getitem__)
    slots = [found.slots[index] for index in indexes]
    table = page_table(found.block, slots, name=found.name)
    frames, frame = _frames_of(table, found)
    sizes = found.block.columns().sizes
    bounds = [*table.slot.searchsorted(slots).tolist(), len(frame)]
    parts = []
    for position, (index, slot) in enumerate(zip(indexes, slots, strict=True)):
        rows = slice(bounds[position], bounds[position + 1])
        size = int(sizes[slot])
        columns = (column[rows] for column in (table.first, table.pages, frame, table.inside))
        pages = -(-size // found.block.page_size)
        parts.append(FilePart(found.files[index], size, 0, pages, True, *columns))
    return Unit(frames, parts, True)


def _frames_of(table: PageTable, found: FileBlock) -> tuple[Frames, Any]:
    """The frames of some extents, and for each extent which of them is its own."""
    import numpy as np

    order = np.argsort(table.frame, kind="stable")
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(table.frame[order]) != 0
    starts = np.flatnonzero(new)
    index = np.empty(len(order), dtype=np.int64)
    index[order] = np.cumsum(new) - 1
    # Extents ascend within a file, and a frame's are those of one file.
    one = order[starts]
    last = order[np.append(starts[1:], len(order)) - 1] if len(order) else one
    shift = (table.first - table.inside)[order]
    lowest, highest = one, one
    if len(order):
        lowest = np.minimum.reduceat(shift, starts)
        highest = np.maximum.reduceat(shift, starts)
    plain, stored, number = table.plain[one], table.stored[one], table.number[one]
    for impossible in number[(plain > MAX_FRAME) | (stored > _MAX_STORED)].tolist():
        raise damaged(found.name, f"a map names frame {impossible} with an impossible size")
    frames = Frames(
        [found.pack(pack) for pack in table.pack[one].tolist()],
        number.tolist(),
        table.offset[one].tolist(),
        stored.tolist(),
        plain.tolist(),
        -(-plain // found.block.page_size),
        table.first[one],
        table.first[last] + table.pages[last],
        np.where(lowest == highest, lowest, -1),
    )
    return frames, index


def _cuts(frames: Frames, pages: int, *, region_pages: int, page_size: int) -> Iterator[int]:
    """Where a file may be cut: at borders of regions that few frames cross, and not too often."""
    import numpy as np

    regions = -(-pages // region_pages)
    region_bytes = region_pages * page_size
    if regions * region_bytes < 2 * CUT_BYTES:
        return
    # Bytes of the frames that are needed before a border and behind it, by adding up where they
    # begin to be and end.
    change = np.zeros(regions + 1, dtype=np.int64)
    np.add.at(change, frames.begin // region_pages + 1, frames.plain)
    np.add.at(change, (frames.end - 1) // region_pages + 1, np.negative(frames.plain))
    at = 0
    for border, crossing in enumerate(np.cumsum(change).tolist()):
        least = max(CUT_BYTES, crossing * _CUT_SHARE)
        if min(border - at, regions - border) * region_bytes >= least:
            yield border * region_pages
            at = border
