"""When pages that have not changed are stored again.

A map names frames of which some pages are superseded: a restore reads and opens those for nothing.
So after each file the worker that read it looks at the map that came out, and stores again, from
the file that is at hand, the live pages of the worst frames, until

* the frames that the map names hold at most 1.5 × its live pages, and
* the frames that are scattered over the file, and of which a restore has to hold those that reach
  beyond the place where it is, hold at most 32 MiB at any place.

Most of that is known while the file is read for the first time: once what it names is sure to go
beyond the first bound, a run of pages that leaves less than half of an old frame is stored whole
(``Layers``), which saves a second look at it.

The first bound holds for each file and hence for the whole backup. (A bound over the whole backup
would store less again where hot and cold files lie together, but wants all maps at once, and the
data directory a second time: ``docs/decisions/0006``.)
"""

from __future__ import annotations

from typing import Any

from pgkeep.backup.reader import RUN_BYTES
from pgkeep.repository.map import HOLE
from pgkeep.repository.map_rows import ZEROS, MapRows

MOST_NAMED = 1.5
HELD_BYTES = 32 << 20
_SCATTERED_PAGES = 1024


class Layers:
    """What the new map of a file will name at least, while it is read run by run.

    Several threads may use it; a count that is lost to a race is made up for by
    :func:`pages_to_store_again`, which looks at the map as it came out.
    """

    def __init__(self, rows: MapRows, *, pages: int, page_size: int) -> None:
        import numpy as np

        self._owner, _ = rows.frames_of_pages(pages)
        places = np.flatnonzero(self._owner >= 0)
        there = self._owner[places]
        self._live = np.bincount(there, minlength=rows.frames.shape[1])
        self._held = -(-rows.frames[4] // page_size)
        # Of a file that was cut off, the frames beyond its end are named no more.
        self._named = int(self._held[self._live > 0].sum())
        self._full = pages - int(np.count_nonzero(self._owner == ZEROS))
        self._has_holes = self._full < pages
        self._near = self._near_frames(places, there, most=RUN_BYTES // page_size)

    def _near_frames(self, places: Any, there: Any, *, most: int) -> Any:
        """As ``_owner``, but -1 also for frames that lie over more pages than a run has: no run
        could hold all of what is needed of one."""
        import numpy as np

        start, end = np.zeros((2, len(self._live)), dtype=np.int64)
        start[there[::-1]] = places[::-1]
        end[there] = places
        near = np.full(len(self._owner), -1, dtype=np.int64)
        is_near = end[there] - start[there] < most
        near[places[is_near]] = there[is_near]
        return near

    def widen(self, first: int, changed: Any, zeros: Any) -> Any:
        """The mask of the pages of a run, from page ``first``, that are to be stored: those that
        ``changed``, and what a poor frame would still be needed for. Pages that are ``zeros`` (a
        mask, or None for none) take no room in a frame, and do not count among the live ones."""
        import numpy as np

        run = slice(first, first + len(changed))
        self._count(self._owner[run], changed, zeros)
        near, poor = self._near[run], []
        for frame in _distinct(near):
            mine = near == frame
            if np.count_nonzero(mine) != self._live[frame]:
                continue  # pages of it lie elsewhere, too
            needed = mine & ~changed
            after, held = int(np.count_nonzero(needed)), int(self._held[frame])
            if not after:
                self._named -= held
            elif 2 * after < held:
                poor.append((needed, held))
        if not poor or self._named <= MOST_NAMED * self._full:
            return changed
        for needed, held in poor:
            self._named -= held
            self._count(self._owner[run], needed, zeros)
            changed = changed | needed
        return changed

    def _count(self, owner: Any, stored: Any, zeros: Any) -> None:
        """These pages get another place: in a frame, or in a hole."""
        import numpy as np

        if zeros is None and not self._has_holes:
            self._named += int(np.count_nonzero(stored))
            return
        zeros = np.zeros(len(stored), dtype=bool) if zeros is None else zeros
        was_hole = owner == ZEROS
        self._named += int(np.count_nonzero(stored & ~zeros))
        self._full += int(np.count_nonzero(stored & was_hole & ~zeros))
        self._full -= int(np.count_nonzero(stored & zeros & ~was_hole))


def _distinct(near: Any) -> list[int]:
    """The frames among these; most often there is but one, or none."""
    import numpy as np

    last = int(near.max(initial=-1))
    if last < 0:
        return []
    if ((near == last) | (near < 0)).all():
        return [last]
    return [frame for frame in np.unique(near).tolist() if frame >= 0]


def pages_to_store_again(rows: MapRows, *, page_size: int) -> Any:
    """The pages, ascending, that have to be stored again for the bounds to hold."""
    import numpy as np

    count = rows.frames.shape[1]
    first, pages, frame, _ = (row[rows.extents[2] != HOLE] for row in rows.extents)
    if not count:
        return np.zeros(0, dtype=np.int64)
    held = -(-rows.frames[4] // page_size)
    live = np.bincount(frame, weights=pages, minlength=count).astype(np.int64)
    start = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(start, frame, first)
    end = np.zeros(count, dtype=np.int64)
    np.maximum.at(end, frame, first + pages)
    gone = _wasteful(held, live)
    _thin_out(gone, held, live, span=(start, end), most=HELD_BYTES // page_size)
    chosen = gone[frame]
    counts = pages[chosen]
    total = int(counts.sum())
    offsets = np.repeat(first[chosen] - np.cumsum(counts) + counts, counts)
    return np.sort(offsets + np.arange(total))


def _wasteful(held: Any, live: Any) -> Any:
    """The frames that have to go until what is named is at most 1.5 × what is live; those first
    that waste most for each page that is stored again."""
    import numpy as np

    gone = np.zeros(len(held), dtype=bool)
    excess = held.sum() - MOST_NAMED * live.sum()
    if excess <= 0:
        return gone
    waste = held - live
    order = np.argsort(-waste / np.maximum(live, 1), kind="stable")
    saved = np.cumsum(waste[order])
    gone[order[: int(np.searchsorted(saved, excess)) + 1]] = True
    return gone


def _thin_out(gone: Any, held: Any, live: Any, *, span: tuple[Any, Any], most: int) -> None:
    """Add to ``gone`` the sparsest of the frames that lie over the fullest place, until no place
    is under more than ``most`` pages."""
    import numpy as np

    start, end = span
    scattered = end - start > _SCATTERED_PAGES
    while True:
        there = np.flatnonzero(scattered & ~gone)
        if held[there].sum() <= most:
            return
        places = np.concatenate((start[there], end[there]))
        change = np.concatenate((held[there], -held[there]))
        order = np.lexsort((change, places))
        depth = np.cumsum(change[order])
        worst = int(np.argmax(depth))
        if depth[worst] <= most:
            return
        place = places[order[worst]]
        over = there[(start[there] <= place) & (end[there] > place)]
        sparsest = over[np.argsort(live[over] / (end[over] - start[over]), kind="stable")]
        gone[sparsest[: max(1, len(sparsest) // 8)]] = True
