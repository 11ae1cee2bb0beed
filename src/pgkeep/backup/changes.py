"""What of a run of pages is stored: all of it, or the pages that are not what they were.

A page has changed if its hash differs from the parent's, or if the parent's is not known. Changed
pages of one file are gathered into frames of up to 1 MiB, since a page alone compresses badly and
a hundred thousand frames cost more than their content. A run of which everything changed becomes a
frame of its own, as in a first copy: a restore then writes it in one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from pgkeep.backup.layering import Layers
from pgkeep.backup.packing import PackFiller
from pgkeep.backup.reader import RUN_BYTES, Run, hashes_of
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.repository.map import HOLE, Extent, FrameAddress

_HOLE_PAGES = 16


class RunStore(Protocol):
    """Takes the runs of one file, or of a stretch of it, in ascending order."""

    def add(self, run: Run) -> None: ...

    def finish(self) -> None: ...


class WholeRuns:
    """Stores every page, each run as a frame; long runs of zeros are holes.

    ``frames`` and ``extents`` are what was stored; extents count in ``frames``.
    """

    def __init__(self, filler: PackFiller, page_size: int) -> None:
        self._filler, self._size = filler, page_size
        self.frames: list[FrameAddress] = []
        self.extents: list[Extent] = []

    def add(self, run: Run) -> None:
        size = self._size
        pages = -(-len(run.data) // size)
        kept = list(_outside_holes(run.zero_runs, pages))
        page, in_frame = run.offset // size, 0
        for first, last, hole in kept:
            frame = HOLE if hole else len(self.frames)
            self.extents.append(Extent(page + first, last - first, frame, 0 if hole else in_frame))
            in_frame += 0 if hole else last - first
        data = [(first, last) for first, last, hole in kept if not hole]
        if not data:
            return
        if len(data) == 1:
            plain: object = run.data[data[0][0] * size : data[0][1] * size]
        else:
            plain = b"".join(run.data[first * size : last * size] for first, last in data)
        hashes = b"".join(hashes_of(run, first, last) for first, last in data)
        self.frames.append(self._filler.add_data(plain, hashes))

    def finish(self) -> None:
        """Nothing is held back."""


class ChangedPages:
    """Stores the pages whose hash is not the one in ``old``, or which ``forced`` names.

    ``old`` has 8 bytes a page; pages beyond it are new. ``forced`` is a mask of pages that are to
    be stored again whatever they hold, or None. ``room`` is 1 MiB that nobody else uses meanwhile.
    With ``layers``, pages that have not changed are stored, too, where that spares a second look.

    Where every fifth page has changed there are more pages than Python could look at one by one,
    so what is done to them is done to all of a run at once.
    """

    def __init__(
        self,
        filler: PackFiller,
        page_size: int,
        *,
        old: bytes,
        forced: Any,
        room: memoryview,
        layers: Layers | None = None,
    ) -> None:
        import numpy as np

        self._filler, self._size = filler, page_size
        self._old, self._forced, self._layers = old, forced, layers
        self._whole = WholeRuns(filler, page_size)
        self.frames = self._whole.frames
        self._room, self._filled = room, 0
        self._pages = np.frombuffer(room, dtype=np.uint8).reshape(-1, page_size)
        self._waiting: list[Any] = []
        self._hashes: list[Any] = []
        self._stored: list[Any] = []

    def add(self, run: Run) -> None:
        """Store what of the run has changed, or keep it for the next frame."""
        import numpy as np

        first, pages = run.offset // self._size, -(-len(run.data) // self._size)
        old = self._old[first * HASH_SIZE : (first + pages) * HASH_SIZE]
        if self._forced is None and old == run.hashes:
            return
        changed = self._changed(run, first, pages, old)
        if not changed.any():
            return
        zeros = _mask(run.zero_runs, pages) if run.zero_runs else None
        if self._layers is not None:
            changed = self._layers.widen(first, changed, zeros)
        if changed.all() and len(run.data) == RUN_BYTES:
            self._whole.add(run)
            return
        if zeros is not None:
            self._note(first + np.flatnonzero(changed & zeros), HOLE)
            changed = changed & ~zeros
        self._gather(run, first, np.flatnonzero(changed))

    def add_pages(self, pages: Any, data: memoryview, hashes: bytes) -> None:
        """Store whole pages, of any places and 1 MiB at most, as a frame of their own."""
        self._note(pages, len(self.frames))
        self.frames.append(self._filler.add_data(data, hashes))

    def finish(self) -> None:
        """Store what was gathered."""
        self._flush()

    def changes(self) -> Any:
        """What was stored, as ``overlay`` takes it: rows first page, pages, frame, page in
        frame."""
        import numpy as np

        whole = np.array(self._whole.extents, dtype=np.int64).reshape(-1, 4).T
        return np.concatenate((whole, *self._stored), axis=1)

    def _changed(self, run: Run, first: int, pages: int, old: bytes) -> Any:
        import numpy as np

        known = np.frombuffer(old, dtype="<u8")
        if len(known) < pages:
            known = np.concatenate((known, np.zeros(pages - len(known), dtype="<u8")))
        changed = (np.frombuffer(run.hashes, dtype="<u8") != known) | (known == 0)
        if self._forced is not None:
            forced = self._forced[first : first + pages]
            changed[: len(forced)] |= forced
        return changed

    def _gather(self, run: Run, base: int, wanted: Any) -> None:
        import numpy as np

        size = self._size
        whole = len(run.data) // size
        pages = np.frombuffer(run.data, dtype=np.uint8, count=whole * size).reshape(-1, size)
        room = self._pages
        hashes = np.frombuffer(run.hashes, dtype="<u8")
        while len(wanted):
            at = self._filled // size
            some = wanted[: len(room) - at]
            if not len(some):
                self._flush()
                continue
            full = some[: len(some) - (some[-1] == whole)]
            # With "raise" numpy would go through a copy.
            np.take(pages, full, axis=0, out=room[at : at + len(full)], mode="clip")
            self._filled += len(full) * size
            if len(full) < len(some):  # the file ends within its last page, which is none
                rest = run.data[whole * size :]
                self._room[self._filled : self._filled + len(rest)] = rest
                self._filled += len(rest)
            self._waiting.append(base + some)
            self._hashes.append(hashes[some])
            wanted = wanted[len(some) :]

    def _flush(self) -> None:
        import numpy as np

        if not self._waiting:
            return
        plain, hashes = self._room[: self._filled], np.concatenate(self._hashes)
        self._note(np.concatenate(self._waiting), len(self.frames))
        self.frames.append(self._filler.add_data(plain, hashes.tobytes()))
        self._waiting, self._hashes, self._filled = [], [], 0

    def _note(self, pages: Any, frame: int) -> None:
        import numpy as np

        inside = np.zeros_like(pages) if frame == HOLE else np.arange(len(pages))
        self._stored.append(
            np.vstack((pages, np.ones_like(pages), np.full_like(pages, frame), inside))
        )


def _outside_holes(
    zero_runs: Iterable[tuple[int, int]], pages: int
) -> Iterator[tuple[int, int, bool]]:
    """Cut [0, pages) into (first, last, is a hole); short zero runs stay with the data.

    A few zero pages compress to nothing; a hole of their own would cost more in the map.
    """
    at = 0
    for first, last in zero_runs:
        if last - first >= _HOLE_PAGES or last - first == pages:
            if first > at:
                yield at, first, False
            yield first, last, True
            at = last
    if at < pages:
        yield at, pages, False


def _mask(runs: Iterable[tuple[int, int]], pages: int) -> Any:
    import numpy as np

    mask = np.zeros(pages, dtype=bool)
    for first, last in runs:
        mask[first:last] = True
    return mask
