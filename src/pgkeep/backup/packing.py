"""Filling packs and storing them, while the copy goes on.

Each worker fills a pack of its own, in a buffer from a small pool; full packs are stored by
threads that hand the buffer back. So memory is bounded by the pool, not by the cluster, and a
slow store slows the copy by holding buffers. A pack counts only when its put has returned.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap

from pgkeep.errors import Interrupted
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.map import FrameAddress
from pgkeep.repository.pack import BUFFER_BYTES, PackInfo, PackWriter
from pgkeep.repository.presence import missing_packs
from pgkeep.seal.envelope import FrameRef
from pgkeep.seal.keyring import PageHashKey
from pgkeep.storage.checked import not_kept
from pgkeep.storage.direct import aligned_buffer

_SPARE_BUFFERS = 2  # with one, workers that finish at the same moment wait for the disk
_INDEX_BYTES = 2 << 20


class PackStream:
    """All packs of one attempt. Use it in a ``with``; ``close`` waits until all of them are
    stored."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        attempt: str,
        *,
        writers: int,
        page_size: int,
        hash_key: PageHashKey,
        level: int,
    ) -> None:
        self.attempt = attempt
        self._repository, self._layout = repository, layout
        self._page_size, self._hash_key, self._level = page_size, hash_key, level
        self._buffers: queue.SimpleQueue[mmap] = queue.SimpleQueue()
        for _ in range(writers + _SPARE_BUFFERS):
            self._buffers.put(aligned_buffer(BUFFER_BYTES))
        self._pool = ThreadPoolExecutor(max(2, writers), thread_name_prefix="store")
        self._lock = threading.Lock()
        self._numbers = 0
        self.stored: list[PackInfo] = []
        self.failure: BaseException | None = None

    def open(self, *, pooled: bool = True) -> PackFiller:
        """A new filler, for one thread; without ``pooled`` its buffer grows as it is needed."""
        return PackFiller(self, pooled=pooled)

    def close(self) -> list[PackInfo]:
        """Wait for every pack; returns what was stored, and is there.

        Raises what a store raised, and ``StoreError`` for a pack that it confirmed and has not.
        """
        self._pool.shutdown(wait=True)
        self.check()
        store = self._repository.store
        missing = missing_packs(store, self._layout, self.stored, attempt=self.attempt)
        if missing:
            raise not_kept(store.url, missing[0].key, "It is not there now, or is cut off")
        return self.stored

    def stored_now(self) -> list[PackInfo]:
        """What is durable by now."""
        with self._lock:
            return list(self.stored)

    def fail(self, error: BaseException) -> None:
        """Make everybody who works on this stream, or waits for a buffer, raise ``error``.

        The first failure is kept. It may be any exception: what a thread of ours swallowed would
        be a pack that is missing. Nor does anybody wait any more for a store that is away.
        """
        with self._lock:
            self.failure = self.failure or error
        self._repository.store.stop_waiting()

    def abort(self) -> None:
        """Give up: nothing new is begun; what is being stored is harmless."""
        self.fail(Interrupted("The backup was stopped."))
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check(self) -> None:
        """Raise the first failure of a put, so that nobody works on in vain."""
        if self.failure is not None:
            raise self.failure

    def new_pack(self, *, buffer: mmap | None = None) -> PackWriter:
        with self._lock:
            self._numbers += 1
            number = self._numbers
        return PackWriter(
            self._repository.keyring,
            self.attempt,
            number,
            page_size=self._page_size,
            hash_key=self._hash_key,
            level=self._level,
            buffer=buffer,
        )

    def take_buffer(self) -> mmap:
        """A buffer of the pool; waits for one. Raises what a store raised meanwhile."""
        while True:
            self.check()
            try:
                return self._buffers.get(timeout=0.2)
            except queue.Empty:
                continue

    def submit(self, writer: PackWriter, buffer: mmap | None) -> None:
        """Store a finished pack in the background."""
        info, view = writer.finish()

        def store() -> None:
            try:
                key = self._layout.pack(info.attempt, info.number)
                self._repository.store.put(key, view, if_absent=True)
                with self._lock:
                    self.stored.append(info)
            except BaseException as error:
                self.fail(error)
            finally:
                if buffer is not None:
                    self._buffers.put(buffer)
                view.release()

        self._pool.submit(store)


class PackFiller:
    """One thread's way into the stream: opens packs as needed, hands them over when full."""

    def __init__(self, stream: PackStream, *, pooled: bool) -> None:
        self._stream, self._pooled = stream, pooled
        self._writer: PackWriter | None = None
        self._buffer: mmap | None = None
        self._hash_bytes = 0

    def add_data(self, plain: object, hashes: bytes) -> FrameAddress:
        """Store one frame of pages (at most 1 MiB)."""
        writer = self._ready()
        self._hash_bytes += len(hashes)
        return _address(writer, writer.add_data(plain, hashes))

    def add_map_block(self, block: bytes) -> FrameAddress:
        """Store one block of maps."""
        writer = self._ready()
        return _address(writer, writer.add_map_block(block))

    def flush(self) -> None:
        """Hand over the pack that is being filled, if anything is in it."""
        if self._writer is not None and self._writer.frames:
            self._stream.submit(self._writer, self._buffer)
            self._writer, self._buffer, self._hash_bytes = None, None, 0

    def _ready(self) -> PackWriter:
        if self._writer is not None and self._is_full(self._writer):
            self.flush()
        if self._writer is None:
            self._buffer = self._stream.take_buffer() if self._pooled else None
            self._writer = self._stream.new_pack(buffer=self._buffer)
        self._stream.check()
        return self._writer

    def _is_full(self, writer: PackWriter) -> bool:
        # Hashes do not compress: gigabytes that shrink to a few megabytes would make an index
        # larger than the buffer, so such packs are closed early.
        return writer.full or self._hash_bytes >= _INDEX_BYTES


def _address(writer: PackWriter, frame: FrameRef) -> FrameAddress:
    return FrameAddress(writer.attempt, writer.number, *frame)
