"""Memory for frames that were opened apart from where they belong.

An increment's frame has pages of many regions, so it is held until the last of them has passed.
How many are held at once depends on how many increments there are, which is bounded here: a frame
for which there is no room is forgotten, and read again for the next region.
"""

from __future__ import annotations

from typing import Any

HELD_BYTES = 32 << 20
"""Thirty increments that changed all over a file want a frame of 1 MiB each."""

_USUAL_BYTES = 1 << 20
_LITTLE_BYTES = 256 << 10


class HeldFrames:
    """The opened frames of one worker, as numpy arrays of pages."""

    def __init__(self, *, page_size: int) -> None:
        self._page_size = page_size
        self._held: dict[int, Any] = {}
        self._held_bytes = 0
        self._spare: list[Any] = []

    def __contains__(self, frame: int) -> bool:
        return frame in self._held

    def frames(self) -> list[int]:
        """All that are held."""
        return list(self._held)

    def room_for(self, pages: int) -> Any:
        """Memory of at least so many pages, with anything in it."""
        import numpy as np

        size = pages * self._page_size
        # New memory costs a page fault for every 4 KiB: that of usual frames is used again.
        if _LITTLE_BYTES < size <= _USUAL_BYTES:
            if self._spare:
                return self._spare.pop()
            pages = _USUAL_BYTES // self._page_size
        return np.empty((pages, self._page_size), np.uint8)

    def hold(self, frame: int, pages: Any) -> None:
        """Keep an opened frame, if there is room for one more."""
        if self._held_bytes + pages.nbytes > HELD_BYTES:
            self.give_back(pages)
            return
        self._held[frame] = pages
        self._held_bytes += pages.nbytes

    def take(self, frame: int) -> Any:
        """A frame that was held; it is the caller's now."""
        pages = self._held.pop(frame)
        self._held_bytes -= pages.nbytes
        return pages

    def give_back(self, pages: Any) -> None:
        """Memory of a frame that nobody needs any more."""
        if pages.nbytes == _USUAL_BYTES:
            self._spare.append(pages)
