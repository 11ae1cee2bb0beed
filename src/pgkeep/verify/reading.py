"""Reading the objects of a system and judging each, several at once, from where the last check
ended.

Objects go in the order of their keys, round after round. What is in flight is bounded by bytes: a
pack has 32 MiB, a segment may have a gigabyte. A listing is streamed, never held.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pgkeep.errors import ObjectNotFound
from pgkeep.progress import Progress
from pgkeep.repository.checks import DEEP, Finding
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import ObjectInfo
from pgkeep.verify.judging import Judge
from pgkeep.verify.soundness import is_checked

_REQUESTS = 8
_AHEAD_BYTES = 256 << 20


@dataclass(frozen=True)
class Reading:
    """What to read. ``after`` is the key behind which it begins; ``most_bytes`` and
    ``most_seconds`` say when it is enough for this time (None: never). ``skip`` was judged
    already."""

    deep: bool = False
    after: str = ""
    most_bytes: int | None = None
    most_seconds: float | None = None
    skip: Collection[str] = ()
    clock: Callable[[], float] = time.monotonic


@dataclass
class Read:
    """What was read: up to ``until``, None if to the end. ``bad`` are keys and what is wrong.

    It is right at any moment: whoever is interrupted takes it as it is. ``asked_bytes`` counts what
    was skipped, too.
    """

    until: str | None = ""
    objects: int = 0
    bytes: int = 0
    asked_bytes: int = 0
    bad: dict[str, Finding] = field(default_factory=dict)


def read_objects(
    repository: Repository,
    layout: Layout,
    judge: Judge,
    reading: Reading,
    done: Read,
    *,
    progress: Progress,
) -> None:
    """Read and judge, and say in ``done`` how far it came.

    Raises what the store raises, but for damage and for what was deleted.
    """
    began = reading.clock()
    done.until = reading.after

    def look(key: str) -> Finding | None:
        try:
            return judge.look(key, deep=reading.deep)
        except ObjectNotFound:
            return None  # deleted meanwhile; what is needed and missing is found by its name

    waiting: deque[tuple[ObjectInfo, Future[Finding | None] | None]] = deque()
    ahead = 0

    def finish() -> None:
        nonlocal ahead
        info, future = waiting[0]
        if future is not None:
            found = future.result()
            if found is not None:
                done.bad[info.key] = found
            done.objects += 1
            done.bytes += info.size_bytes
        waiting.popleft()
        ahead -= info.size_bytes
        done.until = info.key
        progress.advance(info.size_bytes)

    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="verify") as pool:
        try:
            for info in _objects(repository, layout, reading.after):
                while waiting and (
                    len(waiting) >= 2 * _REQUESTS or ahead + info.size_bytes > _AHEAD_BYTES
                ):
                    finish()
                if done.asked_bytes and _is_enough(reading, done, began):
                    break
                skip = info.key in reading.skip
                waiting.append((info, None if skip else pool.submit(look, info.key)))
                ahead += info.size_bytes
                done.asked_bytes += max(info.size_bytes, 1)
            else:
                while waiting:
                    finish()
                done.until = None
            while waiting:
                finish()
        except BaseException:
            while waiting and _is_judged(waiting[0][1]):
                finish()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _is_judged(future: Future[Finding | None] | None) -> bool:
    if future is None:
        return True
    return future.done() and not future.cancelled() and future.exception() is None


def _is_enough(reading: Reading, done: Read, began: float) -> bool:
    if reading.most_bytes is not None and done.asked_bytes >= reading.most_bytes:
        return True
    return reading.most_seconds is not None and reading.clock() - began >= reading.most_seconds


def judge_again(
    judge: Judge, known: Mapping[str, Finding], *, deep: bool, can_open: bool
) -> tuple[dict[str, Finding], tuple[str, ...]]:
    """Read again what was found bad: what of it still is, and the keys that are good or gone.

    Each is judged as far as what was found goes, or as ``deep`` says. Where it takes a key that is
    not here (``can_open``) to see what was found, it stands. Raises what the store raises.
    """

    def look(item: tuple[str, Finding]) -> tuple[str, Finding | None]:
        key, old = item
        was_deep = old.level == DEEP
        try:
            found = judge.look(key, deep=can_open and (deep or was_deep))
        except ObjectNotFound:
            return key, None
        if found is None and was_deep and not can_open:
            return key, old
        return key, found

    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="verify") as pool:
        try:
            found = list(pool.map(look, known.items()))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    still = {key: one for key, one in found if one is not None}
    return still, tuple(key for key, one in found if one is None)


def stored_bytes(repository: Repository, layout: Layout) -> int:
    """How much there is to read of a system. One pass through the listing."""
    return sum(info.size_bytes for info in _objects(repository, layout, ""))


def _objects(repository: Repository, layout: Layout, after: str) -> Iterator[ObjectInfo]:
    found = repository.store.list(layout.root, start_after=after or None)
    return (info for info in found if is_checked(info.key, layout))
