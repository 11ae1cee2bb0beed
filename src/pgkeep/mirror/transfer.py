"""Moving objects from whichever source has a sound copy into the target, several at once.

Each object carries a hash of its stored bytes, which is looked at on the way: a copy never makes
two damaged objects of one. What is held in memory at once is bounded by bytes, since one object
may be a few kilobytes or a gigabyte.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import NamedTuple

from pgkeep.errors import DamagedObject, ObjectExists, ObjectNotFound, PgkeepError
from pgkeep.mirror.member import Member
from pgkeep.progress import Progress
from pgkeep.seal import envelope
from pgkeep.storage.fallback import FallbackStore, read_sound
from pgkeep.storage.interface import Store

THREADS = 8
MEMORY_BYTES = 256 << 20


class Wanted(NamedTuple):
    """An object that the target lacks, and its size as far as known."""

    key: str
    size_bytes: int


class Failed(NamedTuple):
    """An object that could not be copied, and why: no source has it, or none a sound one."""

    key: str
    error: PgkeepError


class Transfer:
    """Copies objects to one target, and counts them."""

    def __init__(self, target: Member, sources: Sequence[Member], *, progress: Progress) -> None:
        self.objects = self.bytes = 0
        self._target = target
        self._source = FallbackStore([member.store for member in sources], tell=progress.warn)
        self._progress = progress
        self._lock = threading.Lock()
        self._budget = _Budget(MEMORY_BYTES)

    def copy(self, wanted: Iterable[Wanted]) -> list[Failed]:
        """Copy all of them; returns those that no source could give.

        What the target refuses is raised at once, and so is a source that is silent: what it has
        is not known then.
        """
        failed: list[Failed] = []
        with ThreadPoolExecutor(THREADS, thread_name_prefix="copy") as pool:
            for one in _bounded(pool, self._one, wanted):
                if one is not None:
                    failed.append(one)
        return failed

    def replace(self, wanted: Iterable[Wanted]) -> list[Failed]:
        """Put a sound copy in the place of what the target has under these keys, one after the
        other; a size of 0 is not known. Returns those that no source could give.

        Nothing is deleted before a sound copy is at hand. Raises ``StoreDenied`` where the target
        lets nothing be deleted.
        """
        failed: list[Failed] = []
        for one in wanted:
            try:
                data = self._sound(one.key)
            except (ObjectNotFound, DamagedObject) as error:
                failed.append(Failed(one.key, error))
                continue
            if one.size_bytes and len(data) != one.size_bytes:
                why = envelope.damaged(one.key, "no repository has it in its size")
                failed.append(Failed(one.key, why))
                continue
            problem = self._target.store.delete([one.key])[one.key]
            if problem is not None:
                raise problem
            self.put(one.key, data)
        return failed

    def put(self, key: str, data: bytes) -> None:
        """Store one object that is at hand; one that is there already is left."""
        try:
            self._target.store.put(key, data, if_absent=True)
        except ObjectExists:
            return
        with self._lock:
            self.objects += 1
            self.bytes += len(data)

    def _sound(self, key: str) -> bytes:
        """From whichever source has a sound one."""
        return read_sound(self._source, key, lambda store: sound(store, key))

    def _one(self, wanted: Wanted) -> Failed | None:
        with self._budget.taken(wanted.size_bytes):
            try:
                data = self._sound(wanted.key)
            except (ObjectNotFound, DamagedObject) as error:
                return Failed(wanted.key, error)
            self.put(wanted.key, data)
        self._progress.advance(wanted.size_bytes)
        return None


def sound(store: Store, key: str) -> bytes:
    """The object's bytes, its hash verified. Raises ``DamagedObject``, ``ObjectNotFound``."""
    data = store.get(key)
    envelope.check_trailer(data, key)
    return data


class _Budget:
    """Bytes that may be held at once; one object larger than all of it is held alone."""

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0
        self._condition = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._used or self._used + size <= self._most)
            self._used += size
        try:
            yield
        finally:
            with self._condition:
                self._used -= size
                self._condition.notify_all()


def _bounded(
    pool: ThreadPoolExecutor, work: object, items: Iterable[Wanted]
) -> Iterator[Failed | None]:
    """Results as they come, with a bounded number of items in the queue; stops at an error."""
    waiting: set[Future[Failed | None]] = set()
    try:
        for item in items:
            waiting.add(pool.submit(work, item))  # type: ignore[arg-type]
            if len(waiting) >= 4 * THREADS:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()
    finally:
        for one in waiting:
            one.cancel()
