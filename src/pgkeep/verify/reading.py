"""Reading the objects of a system and judging each, several at once, from where the last check
ended.

Objects go in the order of their keys, round after round. What is in flight is bounded by bytes: a
pack has 32 MiB, a segment may have a gigabyte. A listing is streamed, never held.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import ObjectInfo
from pgkeep.verify.needs import Needs
from pgkeep.verify.soundness import check_opened, check_stored, is_checked

_REQUESTS = 8
_AHEAD_BYTES = 256 << 20


@dataclass(frozen=True)
class Reading:
    """What to read. ``after`` is the key behind which it begins; ``most_bytes`` and
    ``most_seconds`` say when it is enough for this time (None: never)."""

    deep: bool = False
    after: str = ""
    most_bytes: int | None = None
    most_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass
class Read:
    """What was read: up to ``until``, None if to the end. ``bad`` are keys and what is wrong."""

    until: str | None = None
    objects: int = 0
    bytes: int = 0
    bad: dict[str, str] = field(default_factory=dict)


def read_objects(
    repository: Repository,
    layout: Layout,
    needs: Needs | None,
    reading: Reading,
    *,
    progress: Progress,
) -> Read:
    """Read and judge. Raises what the store raises, but for damage and for what was deleted."""
    done = Read()
    began = reading.clock()
    store, keyring = repository.store, repository.keyring

    def judge(info: ObjectInfo) -> str | None:
        key = info.key
        try:
            data = store.get(key)
            digest = check_stored(data, key, layout, keyring)
            expected = needs.expected(key) if needs is not None else None
            if expected is not None and digest != expected[1]:
                return "it is not the pack that the manifest names"
            if reading.deep:
                check_opened(data, key, layout, keyring)
        except ObjectNotFound:
            return None  # deleted meanwhile; what is needed and missing is found by its name
        except (DamagedObject, FormatTooNew) as error:
            return error.what
        return None

    waiting: deque[tuple[ObjectInfo, Future[str | None]]] = deque()
    ahead = 0

    def finish() -> None:
        nonlocal ahead
        info, future = waiting.popleft()
        found = future.result()
        ahead -= info.size_bytes
        if found is not None:
            done.bad[info.key] = found
        done.objects += 1
        done.bytes += info.size_bytes
        done.until = info.key
        progress.advance(info.size_bytes)

    asked = 0
    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="verify") as pool:
        try:
            for info in _objects(repository, layout, reading.after):
                while waiting and (
                    len(waiting) >= 2 * _REQUESTS or ahead + info.size_bytes > _AHEAD_BYTES
                ):
                    finish()
                late = reading.clock() - began
                if reading.most_seconds is not None and asked and late >= reading.most_seconds:
                    break
                if reading.most_bytes is not None and asked >= reading.most_bytes:
                    break
                waiting.append((info, pool.submit(judge, info)))
                ahead += info.size_bytes
                asked += max(info.size_bytes, 1)
            else:
                while waiting:
                    finish()
                done.until = None
                return done
            while waiting:
                finish()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return done


def stored_bytes(repository: Repository, layout: Layout) -> int:
    """How much there is to read of a system. One pass through the listing."""
    return sum(info.size_bytes for info in _objects(repository, layout, ""))


def _objects(repository: Repository, layout: Layout, after: str) -> Iterator[ObjectInfo]:
    found = repository.store.list(layout.root, start_after=after or None)
    return (info for info in found if is_checked(info.key, layout))
