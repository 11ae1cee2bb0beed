"""What of a file stands there already: its pages hashed, and compared with the repository's hashes.

The index of every pack has a hash of every page, so a file is compared without a byte of its
content being fetched. It is done a region at a time, as files are put together; a region in which a
page differs, or of which a hash is not known, is written anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from pgkeep.postgres.page import PageState, scan_pages
from pgkeep.repository.pack_indexes import PackIndexes
from pgkeep.restore.assembling import NO_FRAME, REGION_BYTES, by_page, distinct, region_pages
from pgkeep.restore.crc import crc32c
from pgkeep.restore.units import FilePart, Frames
from pgkeep.seal.keyring import PageHashKey


class Region(NamedTuple):
    """Pages [``start``, ``end``) of a file; ``checksum`` is None if they are to be written."""

    start: int
    end: int
    checksum: int | None


class Comparer:
    """One worker's eyes."""

    def __init__(self, indexes: PackIndexes, key: PageHashKey, *, page_size: int) -> None:
        self._indexes, self._key, self._page_size = indexes, key, page_size
        self._room = memoryview(bytearray(REGION_BYTES))

    def regions(self, frames: Frames, part: FilePart, handle: int) -> Iterator[Region]:
        """The regions of a part of an open file, ascending. Raises ``OSError``, and what the
        store raises."""
        step = region_pages(self._page_size)
        for start in range(part.start, part.end, step):
            end = min(start + step, part.end)
            data = self._read(part, start, end, handle)
            same = data is not None and self._is_same(frames, part, start, end, data)
            yield Region(start, end, crc32c(data) if same and data is not None else None)

    def _read(self, part: FilePart, start: int, end: int, handle: int) -> memoryview | None:
        """None when the file is too short."""
        offset = start * self._page_size
        room = self._room[: min(end * self._page_size, part.size_bytes) - offset]
        done = 0
        while done < len(room):
            count = os.preadv(handle, [room[done:]], offset + done)
            if count == 0:
                return None
            done += count
        return room

    def _is_same(
        self, frames: Frames, part: FilePart, start: int, end: int, data: memoryview
    ) -> bool:
        import numpy as np

        scan = scan_pages(data, key=self._key.key, page_size=self._page_size, verify=False)
        owner, inside = by_page(part, start, end)
        stored = owner != NO_FRAME
        zeros = np.frombuffer(scan.states, np.uint8) == PageState.ZERO
        if not zeros[~stored].all():
            return False
        found = np.frombuffer(scan.hashes, "<u8")
        for frame in distinct(owner):
            here = owner == frame
            known = self._hashes(frames, frame)
            if known is None or (known[inside[here]] != found[here]).any():
                return False
        return True

    def _hashes(self, frames: Frames, frame: int) -> Any:
        import numpy as np

        pack = frames.packs[frame]
        place, count = (pack.attempt, pack.number), int(frames.pages[frame])
        known = self._indexes.hashes(place, frames.number[frame], 0, count)
        return np.frombuffer(known, "<u8") if known else None
