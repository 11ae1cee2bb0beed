"""The lease: one backup of a cluster at a time (format, section 2.7).

Two backups at once are both sound, and twice the work: a scheduler fires while yesterday's run
goes on, or two hosts think that it is their turn. To prevent that is all the lease is for. Safety
never rests on it: who loses it goes on, and what protects packs from a sweep is the pin.

No two clocks are compared. A host whose clock is wrong by an hour would else throw out everybody,
or be thrown out; and the store's clock says when an object was written, not what time it is now.
So whoever finds a lease watches it, on its own monotonic clock: an object that stays the same for
as long as it says is expired, one that changes has a living holder. A holder renews four times
within that time, so a refusal comes after a quarter of it. Where the record shows that its process
ran here and has ended, there is nothing to watch: a run that was killed does not hinder the next.

It is renewed by a thread of its own, and not where a backup looks after its session and its pin:
between two such places the server may take minutes for a checkpoint, within a single call.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pgkeep.errors import (
    BackupRunning,
    DamagedObject,
    ObjectExists,
    ObjectNotFound,
    PgkeepError,
    PreconditionFailed,
    StoreDenied,
    StoreError,
)
from pgkeep.progress import Progress
from pgkeep.repository.holder import Holder, parse_holder, this_process
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record
from pgkeep.storage.interface import Store
from pgkeep.units import to_utc_text

LEASE_SECONDS = 60.0
_RENEWALS = 4  # within the time for which a lease holds
_LOOK_SECONDS = 1.0
_LOOKS = 12  # within that time, at the least
_RACES = 20


class Lease:
    """A cluster's lease, as one attempt sees it. Methods may be called from any thread.

    ``by`` is the writer as in any record; ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        *,
        attempt: str,
        by: Mapping[str, Any],
        progress: Progress,
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.seconds = seconds
        self.lost = False
        self._store = store
        self._layout = layout
        self._by = dict(by)
        self._progress = progress
        self._clock = clock
        self._pause = pause
        process = this_process(str(by["host"]))
        self._me = Holder(os.urandom(16).hex(), attempt, seconds, _now(), process)
        self._lock = threading.Lock()
        self._etag: str | None = None
        self._renewals = 0
        self._written = 0.0

    @property
    def renew_seconds(self) -> float:
        """How often a holder renews."""
        return self.seconds / _RENEWALS

    def acquire(self) -> bool:
        """Return when the lease is ours: at once, unless another may hold it.

        False, and said, where the store lets nobody have a lease. Raises ``BackupRunning`` when a
        holder is seen to live, ``FormatTooNew``, and what the store raises.
        """
        able = self._store.capabilities
        if not (able.conditional_create and able.compare_and_swap):
            self._progress.note("this store knows no lease: another backup would not be noticed")
            return False
        try:
            self._acquire()
        except StoreDenied as error:
            self._progress.warn(
                f"The store denies the lease ({error.what}) Another backup of "
                f"{self._layout.cluster} at the same time would not be noticed."
            )
            return False
        return True

    def renew(self) -> None:
        """Say that we live, if it is time to; a call that comes too early costs nothing.

        Raises nothing for the store's sake. Who has lost the lease is warned, once.
        """
        with self._lock:
            etag, now = self._etag, self._clock()
            if etag is None or now - self._written < self.renew_seconds:
                return
            try:
                self._write(etag, seconds=self.seconds, now=now)
            except (PreconditionFailed, ObjectNotFound):
                self._see_who_has_it()
            except PgkeepError:
                return  # it may pass: the next call tries again

    def release(self) -> None:
        """Give it up, if it is ours. What the store does not take now expires by itself."""
        with self._lock:
            if self._etag is not None:
                with suppress(PgkeepError):
                    self._write(self._etag, seconds=0, now=self._clock())
                self._etag = None

    def _acquire(self) -> None:
        found: _Found | None = None
        for _ in range(_RACES):
            found = self._wait_until_free(found)
            if self._take(found):
                if found.is_left_behind:
                    self._progress.note(f"took over the lease of {found}, which runs no more")
                return
        raise StoreError(
            f"{self._layout.lease} in {self._store.url} cannot be replaced.",
            why="It was tried many times, and nobody holds it.",
            remedy="See which other program writes this object, and delete it.",
        )

    def _wait_until_free(self, seen: _Found | None) -> _Found:
        """The lease when it can be taken: absent, given up, its process gone, or expired.

        ``seen`` is what we tried to take before: whatever is there in its place was just written.
        """
        began: float | None = None
        while True:
            now = self._clock()
            found = self._look()
            if found.is_free(self._me):
                return found
            if seen is not None and found.etag != seen.etag:
                raise self._running(found)
            seconds = found.holder.seconds if found.holder else self.seconds
            if began is None:
                began = self._clock()  # not before the first look: then it was the same already
                self._progress.phase(f"waiting to see whether the backup of {found} still runs")
            elif now - began >= seconds:
                return found
            seen = found
            self._pause(min(_LOOK_SECONDS, seconds / _LOOKS))

    def _look(self) -> _Found:
        # If it is replaced between the two requests, the tag is too old, and taking it fails.
        key = self._layout.lease
        try:
            etag, data = self._store.head(key).etag, self._store.get(key)
        except ObjectNotFound:
            return _Found(None, None)
        try:
            return _Found(etag, parse_holder(data, key))
        except DamagedObject:
            return _Found(etag, None)

    def _take(self, found: _Found) -> bool:
        """Whether we got what was found free; else another was faster."""
        with self._lock:
            if found.is_of(self._me):  # our own, from a request whose answer was lost
                self._etag, self._written = found.etag, self._clock()
                return True
            try:
                self._write(found.etag, seconds=self.seconds, now=self._clock())
            except (ObjectExists, PreconditionFailed, ObjectNotFound):
                return False
            return True

    def _write(self, etag: str | None, *, seconds: float, now: float) -> None:
        """Create the record, or replace what has this tag."""
        members = self._me.members(seconds=seconds, renewals=self._renewals)
        record = build_record("lease", members, at=_now(), by=self._by)
        if etag is None:
            tag = self._store.put(self._layout.lease, record, if_absent=True)
        else:
            tag = self._store.replace(self._layout.lease, record, etag=etag)
        self._etag, self._written = tag, now
        self._renewals += 1

    def _see_who_has_it(self) -> None:
        try:
            found = self._look()
        except PgkeepError:
            return
        if found.is_of(self._me):
            self._etag = found.etag  # as in _take
            return
        self._etag, self.lost = None, True
        self._progress.warn(
            f"The lease of this backup was taken by {found}, as if this run had ended. It goes on, "
            "and counts; but two backups of the cluster may be under way."
        )

    def _running(self, found: _Found) -> BackupRunning:
        facts: dict[str, object] = {}
        if found.holder:
            host, pid = found.holder.process[:2]
            facts = {"host": host, "pid": pid, "since": found.holder.since}
            facts["attempt"] = found.holder.attempt
        return BackupRunning(
            f"A backup of {self._layout.cluster} is being made already, by {found}.",
            why="It lives: it renewed its lease while this run watched.",
            remedy="Let it finish, or stop that process; then run the backup again.",
            **facts,
        )


class _Found(NamedTuple):
    """The lease as it was found: absent (no tag), damaged (no holder), or somebody's."""

    etag: str | None
    holder: Holder | None

    def __str__(self) -> str:
        return str(self.holder or "somebody unknown")

    @property
    def is_left_behind(self) -> bool:
        """Whether it was never given up."""
        return self.etag is not None and (self.holder is None or self.holder.seconds > 0)

    def is_of(self, me: Holder) -> bool:
        return self.holder is not None and self.holder.token == me.token

    def is_free(self, me: Holder) -> bool:
        """Whether it can be taken without watching."""
        if self.holder is None:
            return self.etag is None
        ended = self.holder.seconds == 0 or self.holder.process.is_gone(seen_by=me.process)
        return ended or self.is_of(me)


@contextmanager
def holding(lease: Lease) -> Iterator[None]:
    """Hold the lease while the block runs: a thread renews it, and it is given up at any end.

    Raises as :meth:`Lease.acquire` does. Without a lease to have, the block runs all the same.
    """
    if not lease.acquire():
        yield
        return
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(lease.renew_seconds):
            lease.renew()

    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    try:
        keeper.start()
        yield
    finally:
        ended.set()
        lease.release()
        if keeper.is_alive():
            keeper.join()


def _now() -> str:
    return to_utc_text(datetime.now(UTC))
