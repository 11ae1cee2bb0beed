"""Getting frames out of packs: few large requests, some of them under way while others are used.

A file's frames are wanted in the order of its pages. They are fetched in portions of that order,
each of about what one request to the store should carry, over all parts of the file that a worker
expects to do; and while a portion is used the next one is on its way, the first of the next file
included. Within a portion there is a request for each pack, all at once. So a store that takes a
while to answer is waited for once, at the start, and that portion is a smaller one.

What is asked for at once is bounded by bytes, since a map may name as many frames as it likes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import takewhile
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from pgkeep.errors import DamagedObject
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack import PackInfo
from pgkeep.repository.pack_reading import PackReader
from pgkeep.restore.units import Frames, Unit
from pgkeep.seal.envelope import DATA, PREFIX_SIZE, FrameOpener, Scratch
from pgkeep.storage.fallback import read_sound
from pgkeep.storage.interface import Buffer

# To open a pack its key has to be unwrapped; ten terabytes are more packs than should be kept open.
_OPEN_PACKS = 512
_AHEAD_BYTES = 256 << 20
_LEAST_BYTES = 2 << 20
T = TypeVar("T")
_FIRST_SHARE = 4
_REQUESTS_PER_WORKER = 4
_MOST_REQUESTS = 64


class Packs:
    """The packs of a backup, for so many workers. Use it in a ``with``."""

    def __init__(self, repository: Repository, layout: Layout, *, workers: int) -> None:
        self._store, self._layout = repository.store, layout
        # A worker has the portion that it uses, the next one, and the first of its next unit.
        share = _AHEAD_BYTES // (3 * workers)
        self.portion_bytes = min(repository.store.request_bytes, max(share, _LEAST_BYTES))
        threads = min(workers * _REQUESTS_PER_WORKER, _MOST_REQUESTS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        keyring = repository.keyring
        self._reader = PackReader(keyring, layout)

        @lru_cache(_OPEN_PACKS)
        def opener(pack: PackInfo) -> FrameOpener:
            return pack.opener(keyring, layout)

        self.opener = opener

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ask(self, frames: Frames, wanted: Sequence[int]) -> _Asked:
        """Begin to fetch some frames; at most a few portions' worth."""
        by_pack: dict[PackInfo, list[int]] = defaultdict(list)
        for frame in wanted:
            by_pack[frames.packs[frame]].append(frame)
        requests = []
        for pack, members in by_pack.items():
            members.sort(key=frames.offset.__getitem__)
            ranges = [(frames.offset[f] + PREFIX_SIZE, frames.stored[f]) for f in members]
            requests.append((members, self._pool.submit(self._read, pack, ranges)))
        return _Asked(requests)

    def _read(self, pack: PackInfo, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """Bytes of a pack by (offset, length). Raises ``DamagedObject`` where it ends too early."""
        key = pack.key(self._layout)
        return read_sound(self._store, key, lambda store: self._reader.ranges(store, pack, ranges))

    def read_again(self, pack: PackInfo, start: int, length: int, use: Callable[[Buffer], T]) -> T:
        """What ``use`` makes of these bytes, of whichever copy of the pack it does not call
        damaged; it is called again for each. Raises ``DamagedObject`` when it did so of all."""
        key = pack.key(self._layout)
        ranges = [(start, length)]
        return read_sound(
            self._store, key, lambda store: use(self._reader.ranges(store, pack, ranges)[0])
        )


class _Asked(NamedTuple):
    """Frames that are on their way, by the request that brings them."""

    requests: list[tuple[list[int], Future[Sequence[Buffer]]]]

    def result(self) -> dict[int, Buffer]:
        """The stored bytes of each. Raises what a request raised."""
        found: dict[int, Buffer] = {}
        for members, future in self.requests:
            found.update(zip(members, future.result(), strict=True))
        return found

    def forget(self) -> None:
        """Nobody wants them any more."""
        for _, future in self.requests:
            future.cancel()


class _Reading:
    """The frames of some units on their way, portion after portion, one ahead of those that are
    used. The units are parts of one file, ascending, or a single bundle. ``urgent``: somebody
    waits for the first of them."""

    def __init__(self, packs: Packs, units: Sequence[Unit], *, urgent: bool) -> None:
        self.frames = units[0].frames
        self._units = units
        self._packs = packs
        most = packs.portion_bytes
        first = most // _FIRST_SHARE if urgent else most
        self._portions = list(portions(self.frames, _in_order(units), most=most, first=first))
        self._portion_of = {
            frame: number for number, portion in enumerate(self._portions) for frame in portion
        }
        self._found: dict[int, Buffer] = {}
        self._reached = -1
        self._asked = self._ask(0)

    def brings(self, unit: Unit) -> bool:
        """Whether the frames of ``unit`` come this way."""
        return any(one is unit for one in self._units)

    def get(self, frame: int) -> Buffer | None:
        """The stored bytes of a frame, once; None if it does not come this way (any more)."""
        while frame not in self._found and self._reached < self._portion_of.get(frame, -1):
            assert self._asked is not None
            self._found.update(self._asked.result())
            self._reached += 1
            self._asked = self._ask(self._reached + 1)
        return self._found.pop(frame, None)

    def forget(self) -> None:
        """Nobody wants the rest."""
        if self._asked is not None:
            self._asked.forget()

    def _ask(self, number: int) -> _Asked | None:
        if number == len(self._portions):
            return None
        return self._packs.ask(self.frames, self._portions[number])


class FrameSource:
    """One worker's way to the frames of the unit that it works on."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._scratch = Scratch()
        self._reading: _Reading | None = None
        self._next: _Reading | None = None

    def begin(self, unit: Unit, ahead: Sequence[Unit] = ()) -> None:
        """Turn to another unit; ``ahead`` are those that the worker expects to come to then, in
        this order, and what they begin with is fetched meanwhile."""
        if self._reading is None or not self._reading.brings(unit):
            if self._reading is not None:
                self._reading.forget()
            if self._next is None or not self._next.brings(unit):
                self._next = self._read([unit, *ahead], urgent=True)
            self._reading, self._next = self._next, None
        reading = self._reading
        later = [one for one in ahead if not reading.brings(one)]
        if later and (self._next is None or not self._next.brings(later[0])):
            self._next = self._read(later, urgent=False)

    def _read(self, units: Sequence[Unit], *, urgent: bool) -> _Reading:
        """Begin to fetch the first unit, and those behind it that are of the same file."""
        same = takewhile(lambda one: one.frames is units[0].frames, units)
        return _Reading(self._packs, list(same), urgent=urgent)

    def stored(self, wanted: Sequence[int]) -> Iterator[tuple[int, Buffer]]:
        """(frame, stored bytes) of the wanted frames, in this order."""
        assert self._reading is not None
        frames = self._reading.frames
        for some in portions(frames, wanted, most=self._packs.portion_bytes):
            ready = ((frame, self._reading.get(frame)) for frame in some)
            found = {frame: data for frame, data in ready if data is not None}
            again = [frame for frame in some if frame not in found]
            if again:
                found.update(self._packs.ask(frames, again).result())
            for frame in some:
                yield frame, found.pop(frame)

    def open_into(self, frame: int, stored: Buffer, target: memoryview) -> None:
        """The frame's plain bytes, verified, into ``target``, which has their length."""
        assert self._reading is not None
        frames = self._reading.frames
        pack = frames.packs[frame]
        opener = self._packs.opener(pack)
        number = frames.number[frame]

        def use(data: Buffer) -> None:
            opener.open_into(data, target, number=number, kind=DATA, scratch=self._scratch)

        try:
            use(stored)
        except DamagedObject:
            start = frames.offset[frame] + PREFIX_SIZE
            self._packs.read_again(pack, start, frames.stored[frame], use)


def portions(
    frames: Frames, wanted: Sequence[int], *, most: int, first: int | None = None
) -> Iterator[list[int]]:
    """The frames in their order, so many at once that their stored bytes are at most ``most``, or
    ``first`` in the first portion."""
    portion: list[int] = []
    size, bound = 0, most if first is None else first
    for frame in wanted:
        stored = frames.stored[frame]
        if portion and size + stored > bound:
            yield portion
            portion, size, bound = [], 0, most
        portion.append(frame)
        size += stored
    if portion:
        yield portion


def _in_order(units: Sequence[Unit]) -> list[int]:
    """The frames of the units as their pages come, without those that a part before needs."""
    import numpy as np

    parts = [part for unit in units for part in unit.parts]
    frames = units[0].frames
    used = np.zeros(len(frames.number), dtype=bool)
    for part in parts:
        used[_frames_in(part)] = True
    if units[0].bundled:
        return used.nonzero()[0].tolist()
    used &= frames.begin >= parts[0].start
    fresh = used.nonzero()[0]
    ordered: list[int] = fresh[np.argsort(frames.begin[fresh], kind="stable")].tolist()
    return ordered


def _frames_in(part: Any) -> Any:
    """The frames of the extents that a part has."""
    rows = slice(
        max(int(part.first.searchsorted(part.start, side="right")) - 1, 0),
        int(part.first.searchsorted(part.end)),
    )
    return part.frame[rows]
