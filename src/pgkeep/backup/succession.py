"""From the changed pages of a file to its new map: the parent's, with these pages elsewhere.

What that map would have a restore read in vain is stored again (``layering.py``), from the file,
whose pages are still in the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pgkeep.backup.changes import ChangedPages
from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.layering import pages_to_store_again
from pgkeep.backup.packing import PackFiller
from pgkeep.backup.parents import Ancestor
from pgkeep.backup.reader import RUN_BYTES, RunReader, SuspectPage
from pgkeep.backup.stretches import Stretch
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.repository.map import HOLE, FrameAddress
from pgkeep.repository.map_rows import overlay

_NEAR_PAGES = 8


@dataclass(frozen=True)
class Joined:
    """All stretches of a file that a parent has, up to where it ended.

    ``changes`` has rows as ``overlay`` takes them, which count in ``frames``; ``hashes`` are those
    of all pages.
    """

    size_bytes: int
    frames: tuple[FrameAddress, ...]
    changes: Any
    hashes: bytes
    suspects: tuple[SuspectPage, ...]

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Joined:
        """Stretches in their order. Where one ends early, the file did: what was written beyond
        that later is in WAL, and does not count."""
        import numpy as np

        frames: list[FrameAddress] = []
        changes: list[Any] = []
        hashes: list[bytes] = []
        suspects: list[SuspectPage] = []
        for stretch in stretches:
            end = stretch.read_to
            if stretch.changes is not None:
                moved = stretch.changes.copy()
                moved[2][moved[2] != HOLE] += len(frames)
                changes.append(moved)
                frames += stretch.frames
                hashes += stretch.hashes
                suspects += stretch.suspects
            if end < stretch.end:
                break
        joined = np.concatenate(changes, axis=1)
        return cls(end, tuple(frames), joined, b"".join(hashes), tuple(suspects))


class Succession:
    """Makes one file's new map. ``reader`` and ``room``, 1 MiB, are the calling thread's."""

    def __init__(self, filler: PackFiller, room: memoryview, page_size: int) -> None:
        self._filler, self._room, self._size = filler, room, page_size

    def succeed(
        self, stretches: Sequence[Stretch], old: Ancestor, reader: RunReader | None
    ) -> CopiedFile:
        """The file as its parent's successor. Without a ``reader`` it has vanished meanwhile, and
        its map stays as it came out."""
        file, size, joined = stretches[0].file, self._size, Joined.of(stretches)
        same = not joined.changes.shape[1] and joined.size_bytes == old.rows.size_bytes
        if same and not joined.suspects and not len(old.rows.failed) and not old.is_moving:
            # It may have been longer when it was looked at.
            found = file._replace(size_bytes=joined.size_bytes)
            return CopiedFile(found, None, (), joined.hashes, old.place)
        length = {"size_bytes": joined.size_bytes, "page_size": size}
        rows = overlay(old.rows, joined.frames, joined.changes, **length)
        again = pages_to_store_again(rows, page_size=size)
        suspects, hashes = list(joined.suspects), joined.hashes
        if len(again) and reader is not None:
            store, hashes = self._store_again(joined, reader, again, suspects)
            rows = overlay(rows, store.frames, store.changes(), **length)
        return CopiedFile(file, rows, tuple(suspects), hashes)

    def _store_again(
        self, joined: Joined, reader: RunReader, again: Any, suspects: list[SuspectPage]
    ) -> tuple[ChangedPages, bytes]:
        """Store these pages as they are now; returns what was stored, and the hashes of all.

        They were read a moment ago. What still has the hash that it had then needs no other look,
        and is stored many pages at a time, from wherever they lie.
        """
        import numpy as np

        size, patched = self._size, bytearray(joined.hashes)
        forced = np.zeros(len(patched) // HASH_SIZE, dtype=bool)
        forced[again] = True
        whole = joined.size_bytes // size
        store = ChangedPages(self._filler, size, old=joined.hashes, forced=forced, room=self._room)
        known, changed = np.frombuffer(joined.hashes, dtype="<u8"), [again[:0]]
        for begin in range(0, len(again), RUN_BYTES // size):
            some = again[begin : begin + RUN_BYTES // size]
            found = reader.read_pages(_runs(some)) if some[-1] < whole else None
            if found is not None and found[1] == known[some].tobytes():
                store.add_pages(some, *found)
            else:
                changed.append(some)
        for first, last in _spans(np.concatenate(changed), most=RUN_BYTES // size):
            length = min(last * size, joined.size_bytes) - first * size
            run = reader.read(first * size, length)
            if run is None or len(run.data) < length:
                break  # cut off meanwhile, within a page perhaps; what was read before stays
            store.add(run)
            suspects.extend(run.suspects)
            patched[first * HASH_SIZE : first * HASH_SIZE + len(run.hashes)] = run.hashes
        store.finish()
        return store, bytes(patched)


def _runs(pages: Any) -> Iterator[tuple[int, int]]:
    """Ascending pages as stretches without a gap: (first, one past the last)."""
    import numpy as np

    cuts = np.flatnonzero(np.diff(pages) != 1) + 1
    firsts, lasts = pages[np.r_[0, cuts]], pages[np.r_[cuts - 1, -1]] + 1
    return zip(firsts.tolist(), lasts.tolist(), strict=True)


def _spans(pages: Any, *, most: int) -> Iterator[tuple[int, int]]:
    """Stretches of at most so many pages, as (first, one past the last), that hold all of these;
    between near ones, reading a few pages in vain costs less than another call."""
    start = end = -1
    for page in pages.tolist():
        if start >= 0 and page <= end + _NEAR_PAGES and page < start + most:
            end = page
            continue
        if start >= 0:
            yield start, end + 1
        start = end = page
    if start >= 0:
        yield start, end + 1
