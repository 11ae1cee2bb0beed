"""Getting frames out of packs: a request for each pack, however many frames of it are wanted.

What is asked for at once is bounded by bytes, since a map may name as many frames as it likes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack import PackInfo
from pgkeep.restore.units import Frames, Unit
from pgkeep.seal.envelope import DATA, PREFIX_SIZE, FrameOpener, Scratch, damaged
from pgkeep.storage.interface import Buffer

FETCH_BYTES = 8 << 20
# To open a pack its key has to be unwrapped; ten terabytes are more packs than should be kept open.
_OPEN_PACKS = 512


class Packs:
    """The packs of a backup, for all workers."""

    def __init__(self, repository: Repository, layout: Layout) -> None:
        self._store, self._layout = repository.store, layout
        keyring = repository.keyring

        @lru_cache(_OPEN_PACKS)
        def opener(pack: PackInfo) -> FrameOpener:
            return pack.opener(keyring, layout)

        self.opener = opener

    def read(self, pack: PackInfo, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """Bytes of a pack by (offset, length). Raises ``DamagedObject`` where it ends too early."""
        key = pack.key(self._layout)
        found = self._store.get_ranges(key, ranges)
        for (start, length), data in zip(ranges, found, strict=True):
            if len(data) != length:
                raise damaged(key, f"it ends before byte {start + length}")
        return found


class FrameSource:
    """One worker's way to the frames of the unit that it works on."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._scratch = Scratch()
        self._frames: Frames
        self._ahead: dict[int, Buffer] = {}

    def begin(self, unit: Unit) -> None:
        """Turn to another unit. All frames of a bundle are fetched now."""
        self._frames = unit.frames
        self._ahead = self._fetch(range(len(unit.frames.number))) if unit.bundled else {}

    def stored(self, wanted: Sequence[int]) -> Iterator[tuple[int, Buffer]]:
        """(frame, stored bytes) of the wanted frames, in this order, each of them once."""
        for frames in self._portions(wanted):
            found = self._fetch([frame for frame in frames if frame not in self._ahead])
            for frame in frames:
                yield frame, found.pop(frame) if frame in found else self._ahead.pop(frame)

    def open_into(self, frame: int, stored: Buffer, target: memoryview) -> None:
        """The frame's plain bytes, verified, into ``target``, which has their length."""
        opener = self._packs.opener(self._frames.packs[frame])
        number = self._frames.number[frame]
        opener.open_into(stored, target, number=number, kind=DATA, scratch=self._scratch)

    def _portions(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        portion: list[int] = []
        size = 0
        for frame in wanted:
            stored = self._frames.stored[frame]
            if portion and size + stored > FETCH_BYTES:
                yield portion
                portion, size = [], 0
            portion.append(frame)
            size += stored
        if portion:
            yield portion

    def _fetch(self, wanted: Sequence[int]) -> dict[int, Buffer]:
        frames = self._frames
        by_pack: dict[PackInfo, list[int]] = defaultdict(list)
        for frame in wanted:
            by_pack[frames.packs[frame]].append(frame)
        found: dict[int, Buffer] = {}
        for pack, members in by_pack.items():
            members.sort(key=frames.offset.__getitem__)
            ranges = [(frames.offset[f] + PREFIX_SIZE, frames.stored[f]) for f in members]
            found.update(zip(members, self._packs.read(pack, ranges), strict=True))
        return found
