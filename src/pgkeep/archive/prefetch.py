"""Full segments fetched before recovery asks for them.

Recovery asks for one segment at a time and replays it before it asks for the next, so starting a
program and waiting for the store add up. A process in the background keeps the next few
segments ready in the state directory, never in ``pg_wal``, where the server, ``pg_rewind`` and base
backups would meet them.

What other tools got wrong here, and what holds instead:

* A spool that outlives its writer serves stale or torn files. Ours counts only while the process
  that fills it holds its lock, and that process begins by emptying it. Every file in it was
  verified like a fetched one and appeared by rename.
* Only full segments of the cluster's real segment size, whatever it is.
* Absence is never prefetched: "there is nothing" is always asked of the store, at that moment.
* The process ends by itself: when recovery or the server has ended, or nobody asked for a
  minute. It removes what it leaves.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.errors import WalNotFound
from pgkeep.postgres.wal_name import next_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from pathlib import Path

MOST_SEGMENTS = 8
_MOST_BYTES = 512 << 20
_WORKERS = 3  # one of them waits for the disk
_LOCK = "lock"
_POSITION = "position"
_PART = ".part"
_OWN = (_LOCK, _POSITION)


class Spool:
    """The directory of prefetched segments of one recovery."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = -1

    @classmethod
    def of(
        cls, state: Path, *, pgdata: str, url: str, cluster: str, system_identifier: int
    ) -> Spool:
        """Where it lies below the state directory ``state``."""
        from blake3 import blake3  # hashlib would load all of OpenSSL

        whose = "\n".join((os.path.realpath(pgdata), url, cluster, str(system_identifier)))
        digest = blake3(whose.encode("utf-8", "surrogateescape")).hexdigest()
        return cls(state / "prefetch" / digest[:24])

    # -- the side of wal-fetch ---------------------------------------------------------------

    def take(self, name: str, *, wait_seconds: float = 1.0) -> str | None:
        """The path of a prefetched segment, or None. The caller moves the file away.

        A segment on its way is waited for: fetching it twice at once would take longer.
        """
        if not self.is_served():
            return None
        path = self.folder / name
        give_up = time.monotonic() + wait_seconds
        while not path.exists():
            if not (self.folder / (name + _PART)).exists() or time.monotonic() > give_up:
                # It may have been renamed between the two looks.
                return str(path) if path.exists() else None
            time.sleep(0.005)
        return str(path)

    def is_served(self) -> bool:
        """Whether a process fills it now."""
        from fcntl import LOCK_NB, LOCK_SH, flock

        try:
            handle = os.open(self.folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            flock(handle, LOCK_SH | LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def note_position(self, name: str) -> None:
        """Tell the process that recovery has this segment now. Raises ``OSError``."""
        temporary = self.folder / f".{_POSITION}.{os.getpid()}"
        temporary.write_text(name)
        temporary.replace(self.folder / _POSITION)

    # -- the side of the process -------------------------------------------------------------

    def open_to_fill(self) -> bool:
        """Lock and empty it; False when another process fills it. Raises ``OSError``."""
        from fcntl import LOCK_EX, LOCK_NB, flock

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(
            self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        # Somebody who only looks holds the lock for an instant.
        for _ in range(20):
            try:
                flock(self._lock, LOCK_EX | LOCK_NB)
                self.keep(())
                return True
            except BlockingIOError:
                time.sleep(0.005)
        return False

    def position(self) -> str:
        """The segment that recovery had last; empty if nobody said."""
        try:
            return (self.folder / _POSITION).read_text()
        except OSError:
            return ""

    def has(self, name: str) -> bool:
        """Whether the segment is here."""
        return (self.folder / name).exists()

    def keep(self, names: tuple[str, ...], *, on_their_way: tuple[str, ...] = ()) -> None:
        """Remove every segment, and every remainder of one, but these, and but all of those that
        are on their way."""
        spared = (f".{_POSITION}", *on_their_way)
        for entry in os.listdir(self.folder):  # noqa: PTH208
            if entry not in names and entry not in _OWN and not entry.startswith(spared):
                (self.folder / entry).unlink(missing_ok=True)

    def add(self, name: str, fetch: Callable[[str, str], object]) -> None:
        """Fetch one segment; ``fetch(name, path)`` lets it appear verified, whole and durable."""
        part = self.folder / (name + _PART)
        part.touch(0o600)
        try:
            fetch(name, str(self.folder / name))
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Empty it and let go of the lock."""
        try:
            self.keep(())
        finally:
            os.close(self._lock)


class PrefetchLimits(NamedTuple):
    """How far ahead, and for how long without being asked."""

    segments: int = MOST_SEGMENTS
    idle_seconds: float = 60.0
    poll_seconds: float = 0.05


def fill(
    spool: Spool,
    fetch: Callable[[str, str], object],
    *,
    segment_size: int,
    recovering: Callable[[], bool],
    limits: PrefetchLimits | None = None,
) -> None:
    """Keep the spool filled until recovery ends or rests; the spool was opened for it.

    Returns at the first trouble, too: recovery then asks the store itself, and tells.
    ``fetch`` is that of ``Spool.add``; ``recovering`` says whether a server still recovers here.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="prefetch") as pool:
        flight = _Flight(spool, lambda name: pool.submit(spool.add, name, fetch))
        _keep_filled(spool, flight, segment_size=segment_size, recovering=recovering, bounds=limits)


def _keep_filled(
    spool: Spool,
    flight: _Flight,
    *,
    segment_size: int,
    recovering: Callable[[], bool],
    bounds: PrefetchLimits | None,
) -> None:
    bounds = bounds or PrefetchLimits()
    ahead = max(1, min(bounds.segments, _MOST_BYTES // segment_size))
    position, asked = "", time.monotonic()
    while recovering() and time.monotonic() - asked < bounds.idle_seconds:
        if spool.position() != position:
            position, asked = spool.position(), time.monotonic()
            flight.absent = ""
        if not flight.has_landed():
            return
        wanted = following(position, ahead, segment_size=segment_size)
        spool.keep((position, *wanted), on_their_way=flight.names)
        missing = [name for name in wanted if flight.may_begin(name)]
        if missing and not _has_room(spool.folder, (ahead + 1) * segment_size):
            return
        flight.begin(missing[: _WORKERS - len(flight.names)])
        flight.wait(bounds.poll_seconds)


class _Flight:
    """The segments that are being fetched."""

    def __init__(self, spool: Spool, fetch: Callable[[str], Future[None]]) -> None:
        self._spool, self._fetch = spool, fetch
        self._futures: dict[str, Future[None]] = {}
        self.absent = ""
        """What the store does not have; what comes after it is not asked for before recovery has
        moved on."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._futures)

    def may_begin(self, name: str) -> bool:
        """Whether the segment is neither here, nor on its way, nor absent."""
        is_absent = self.absent and name >= self.absent
        return not (is_absent or name in self._futures or self._spool.has(name))

    def begin(self, names: Iterable[str]) -> None:
        for name in names:
            self._futures[name] = self._fetch(name)

    def wait(self, seconds: float) -> None:
        """Until one has landed, at most so long."""
        from concurrent.futures import FIRST_COMPLETED, wait

        if self._futures:
            wait(self._futures.values(), timeout=seconds, return_when=FIRST_COMPLETED)
        else:
            time.sleep(seconds)

    def has_landed(self) -> bool:
        """See what came of those that are done; False where it is trouble."""
        for name in [name for name, future in self._futures.items() if future.done()]:
            error = self._futures.pop(name).exception()
            if isinstance(error, WalNotFound):
                self.absent = min(self.absent or name, name)
            elif error is not None:
                return False
        return True


def following(name: str, count: int, *, segment_size: int) -> tuple[str, ...]:
    """The names of the next segments on the same timeline."""
    names: list[str] = []
    while name and len(names) < count:
        name = next_segment(name, segment_size)
        names.append(name)
    return tuple(names)


def _has_room(folder: Path, needed: int) -> bool:
    """Twice of what is needed: the disk may also be the server's."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize > 2 * needed
