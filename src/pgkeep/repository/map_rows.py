"""One file's map as columns, and how a successor's map comes of it.

A file of 1 GiB has a thousand frames and, after some increments, thousands of extents; a cluster of
10 TB has ten thousand such files. With an object for each extent a backup would spend its time on
them, so here they are numpy rows, and all that is done to them is done to a whole column.

Frames stand in order of age, newest last: a restore relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgkeep.repository.map import HOLE, FileMap, FrameAddress, MapBlock

PackKey = tuple[str, int]
_NOWHERE = -2
ZEROS = -1
"""Stands for the frame of a page that is all zeros, in :meth:`MapRows.frames_of_pages`."""


class MapRows(NamedTuple):
    """The map of one file, as :class:`FileMap`, in columns.

    ``frames`` has rows pack (index into ``packs``), number, offset, stored, plain; ``extents``
    first page, pages, frame (or HOLE), page in frame; all are int64 arrays.
    """

    path: str
    size_bytes: int
    packs: tuple[PackKey, ...]
    frames: Any
    extents: Any
    failed: Any

    @classmethod
    def of_block(cls, block: MapBlock, slot: int) -> MapRows:
        """The map in a slot of a block that was parsed."""
        import numpy as np

        columns = block.columns()
        frames = columns.frames[:, columns.first_frame[slot] : columns.first_frame[slot + 1]]
        extents = columns.extents[:, columns.first_extent[slot] : columns.first_extent[slot + 1]]
        failed = columns.failed[columns.first_failed[slot] : columns.first_failed[slot + 1]]
        used, pack = np.unique(frames[0], return_inverse=True)
        return cls(
            block.path(slot),
            int(columns.sizes[slot]),
            tuple(block.packs[index] for index in used.tolist()),
            np.vstack((pack.reshape(-1), frames[1:])).astype(np.int64),
            extents.astype(np.int64),
            failed.astype(np.int64),
        )

    @classmethod
    def of_map(cls, one: FileMap) -> MapRows:
        """The same as a ``FileMap``."""
        import numpy as np

        packs: dict[PackKey, int] = {}
        frames = np.zeros((5, len(one.frames)), dtype=np.int64)
        for at, frame in enumerate(one.frames):
            pack = packs.setdefault((frame.attempt, frame.pack), len(packs))
            frames[:, at] = (pack, frame.number, frame.offset, frame.stored, frame.plain)
        extents = np.array(one.extents, dtype=np.int64).reshape(-1, 4).T
        failed = np.array(one.failed, dtype=np.int64)
        return cls(one.path, one.size_bytes, tuple(packs), frames, extents, failed)

    def frames_of_pages(self, pages: int) -> tuple[Any, Any]:
        """(frame, page in frame) of each page from 0 on; the frame is -1 for zeros, and -2 beyond
        the file's end."""
        import numpy as np

        owner = np.full(pages, _NOWHERE, dtype=np.int64)
        inside = np.zeros(pages, dtype=np.int64)
        first, count, frame, start = self.extents
        total = int(count.sum())
        frame = np.where(frame == HOLE, ZEROS, frame)
        known = min(total, pages)
        owner[:known] = np.repeat(frame, count)[:known]
        inside[:known] = (np.repeat(start - first, count) + np.arange(total))[:known]
        return owner, inside

    def pages_in(self, packs: frozenset[PackKey], pages: int) -> Any:
        """A mask of the pages whose frame lies in one of these packs."""
        import numpy as np

        mask = np.zeros(pages, dtype=bool)
        wanted = [index for index, pack in enumerate(self.packs) if pack in packs]
        if wanted:
            frames = np.flatnonzero(np.isin(self.frames[0], wanted))
            mask = np.isin(self.frames_of_pages(pages)[0], frames)
        return mask


def overlay(
    old: MapRows,
    frames: Sequence[FrameAddress],
    changes: Any,
    *,
    size_bytes: int,
    page_size: int,
) -> MapRows:
    """The map of the same file with some pages in other frames, and another length.

    ``changes`` has rows first page, pages, frame, page in frame, in any order, and no page twice;
    its frames count in ``frames``, which are newer than all of ``old``'s. What was beyond the old
    end must be among them. Frames that no page is taken
    from any more are gone. Raises ValueError for a page that is nowhere.
    """
    import numpy as np

    pages = -(-size_bytes // page_size)
    owner, inside = old.frames_of_pages(pages)
    first, count, frame, start = changes
    known = old.frames.shape[1]
    total = int(count.sum())
    places = np.repeat(first - np.cumsum(count) + count, count) + np.arange(total)
    owner[places] = np.repeat(np.where(frame == HOLE, ZEROS, frame + known), count)
    inside[places] = np.repeat(start - first, count) + places
    if (owner == _NOWHERE).any():
        raise ValueError(f"{old.path}: a page of the file is nowhere")
    packs = dict.fromkeys(old.packs)
    for one in frames:
        packs.setdefault((one.attempt, one.pack))
    numbers = {pack: index for index, pack in enumerate(packs)}
    fresh = np.array(
        [(numbers[one.attempt, one.pack], *one[2:]) for one in frames], dtype=np.int64
    ).reshape(-1, 5)
    whole = MapRows(
        old.path,
        size_bytes,
        tuple(packs),
        np.concatenate((old.frames, fresh.T), axis=1),
        _extents(owner, inside),
        old.failed[~np.isin(old.failed, places) & (old.failed < pages)],
    )
    return _without_unused(whole)


def _extents(owner: Any, inside: Any) -> Any:
    """Neighbouring pages that are neighbours in their frame, too, as one extent."""
    import numpy as np

    if not len(owner):
        return np.zeros((4, 0), dtype=np.int64)
    begins = np.ones(len(owner), dtype=bool)
    same = owner[1:] == owner[:-1]
    begins[1:] = ~(same & ((owner[1:] == ZEROS) | (inside[1:] == inside[:-1] + 1)))
    first = np.flatnonzero(begins)
    count = np.diff(np.append(first, len(owner)))
    frame = owner[first]
    zeros = frame == ZEROS
    return np.vstack(
        (first, count, np.where(zeros, HOLE, frame), np.where(zeros, 0, inside[first]))
    ).astype(np.int64)


def _without_unused(rows: MapRows) -> MapRows:
    """The map without frames that no extent names, and packs that no frame names."""
    import numpy as np

    named = rows.extents[2] != HOLE
    used, frame = np.unique(rows.extents[2][named], return_inverse=True)
    extents = rows.extents.copy()
    extents[2][named] = frame.reshape(-1)
    frames = rows.frames[:, used]
    packs, pack = np.unique(frames[0], return_inverse=True)
    frames = np.vstack((pack.reshape(-1), frames[1:])).astype(np.int64)
    return rows._replace(
        packs=tuple(rows.packs[index] for index in packs.tolist()), frames=frames, extents=extents
    )
