"""The files of a dump: streams of unknown length, stored as they come (format, section 9).

A store takes whole objects, and a policy may demand that it only ever creates (``If-None-Match``),
which no multipart upload can say. So a stream is cut into *parts* of 32 MiB, each put like any
other object: tried again after an outage, given to mirrors, and never over another. What fits into
one part is one object with the file's plain name; else the parts are numbered, and joined they are
the age file (docs/decisions/0015).

Memory is a pool of buffers that all streams of a run share. A stream holds one while it fills it,
and a full one is let go when it is stored, so streams wait for each other and never for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from pgkeep.errors import DamagedObject
from pgkeep.repository.dump_record import DumpFile, Part
from pgkeep.repository.identity import Repository
from pgkeep.seal.age_file import CHUNK_BYTES, SEALED_CHUNK_BYTES, AgeSealer, open_stream
from pgkeep.storage.fallback import read_sound
from pgkeep.storage.interface import Store

PART_BYTES = 512 * SEALED_CHUNK_BYTES
_UPLOADS = 2
_SUFFIX = ".age"


class Uploads:
    """What the streams of one run share: buffers, and threads that store them.

    ``streams`` is how many are written at a time. ``stored`` is told of each part's size.
    """

    def __init__(
        self,
        repository: Repository,
        folder: str,
        *,
        streams: int = 1,
        stored: Callable[[int], object] = lambda size: None,
        part_bytes: int | None = None,
    ) -> None:
        self.repository, self.folder = repository, folder
        self.part_bytes = part_bytes or PART_BYTES
        self.recipients = recipients_of(repository)
        self._stored = stored
        self._free = threading.Semaphore(streams + _UPLOADS)
        self._idle: list[bytearray] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="dump-upload")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.repository.store.stop_waiting()
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def buffer(self) -> bytearray:
        """A free one; waits for it."""
        self._free.acquire()
        with self._lock:
            return self._idle.pop() if self._idle else bytearray(self.part_bytes)

    def release(self, buffer: bytearray) -> None:
        """Give a buffer back that was not handed over."""
        with self._lock:
            self._idle.append(buffer)
        self._free.release()

    def put(self, name: str, buffer: bytearray, size: int) -> Future[Part]:
        """Store the buffer's first bytes; the buffer is ours from here on."""
        return self._pool.submit(self._put, name, buffer, size)

    def _put(self, name: str, buffer: bytearray, size: int) -> Part:
        from blake3 import blake3

        try:
            with memoryview(buffer) as whole, whole[:size] as view:
                digest = blake3(view).hexdigest()
                self.repository.store.put(self.folder + name, view, if_absent=True)
            self._stored(size)
            return Part(name, size, digest)
        finally:
            self.release(buffer)


class FileWriter:
    """Writes one file: ``write`` bytes as they come, then ``finish``, or ``abandon``.

    ``name`` is what the file is called when it was fetched. For one thread.
    """

    def __init__(self, uploads: Uploads, name: str) -> None:
        self._uploads = uploads
        self._stem = name + (_SUFFIX if uploads.recipients else "")
        self._sealer = AgeSealer(uploads.recipients) if uploads.recipients else None
        self._buffer: bytearray | None = uploads.buffer()
        self._size = 0
        self._kept = bytearray()
        self._parts: list[Future[Part]] = []
        self._seen = 0  # of so many it is known that they are stored
        self.plain_bytes = 0
        if self._sealer is not None:
            self._add(self._sealer.start)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes. Raises what storing an earlier part raised."""
        self.plain_bytes += len(data)
        view = memoryview(data)
        if self._sealer is None:
            while len(view):
                room = self._uploads.part_bytes - self._size
                if not room:
                    self._hand_over(last=False)
                    continue
                self._add(view[:room])
                view = view[room:]
            return
        if self._kept:
            room = CHUNK_BYTES - len(self._kept)
            self._kept += view[:room]
            view = view[room:]
            if not len(view):
                return
            self._seal(self._kept, last=False)
            self._kept = bytearray()
        # A chunk is kept back, even a whole one: it may be the last.
        while len(view) > CHUNK_BYTES:
            self._seal(view[:CHUNK_BYTES], last=False)
            view = view[CHUNK_BYTES:]
        self._kept += view

    def finish(self) -> tuple[Part, ...]:
        """Store what is left, and return when all parts are stored."""
        if self._sealer is not None:
            self._seal(self._kept, last=True)
        self._hand_over(last=True)
        return tuple(future.result() for future in self._parts)

    def abandon(self) -> None:
        """Give up: what was stored stays, and nothing names it."""
        if self._buffer is not None:
            self._uploads.release(self._buffer)
            self._buffer = None

    # -- inside ----------------------------------------------------------------------------

    def _seal(self, plain: Any, *, last: bool) -> None:
        assert self._sealer is not None
        if self._uploads.part_bytes - self._size < SEALED_CHUNK_BYTES:
            self._hand_over(last=False)
        assert self._buffer is not None
        with memoryview(self._buffer) as view:
            self._size += self._sealer.seal_into(view[self._size :], plain, last=last)

    def _add(self, data: bytes | memoryview) -> None:
        assert self._buffer is not None
        self._buffer[self._size : self._size + len(data)] = data
        self._size += len(data)

    def _hand_over(self, *, last: bool) -> None:
        assert self._buffer is not None
        while self._seen < len(self._parts) and self._parts[self._seen].done():
            self._parts[self._seen].result()
            self._seen += 1
        number = len(self._parts) + 1
        name = self._stem if last and number == 1 else f"{self._stem}.{number:05d}"
        buffer, self._buffer = self._buffer, None
        self._parts.append(self._uploads.put(name, buffer, self._size))
        if not last:
            self._buffer, self._size = self._uploads.buffer(), 0


def recipients_of(repository: Repository) -> tuple[str, ...]:
    """To whom dumps are sealed: the repository's key, and each user's, whose list was proved by
    then (``keys.check_proof``); without the metadata key it could not be. None where nothing is
    sealed."""
    keys, keyring = repository.identity.keys, repository.keyring
    if keys is None:
        return ()
    users = keys.recipients if keyring.can_read_metadata else ()
    return (keys.repository_public, *users)


def read_file(
    repository: Repository,
    folder: str,
    file: DumpFile,
    *,
    advance: Callable[[int], object] = lambda size: None,
) -> Iterator[bytes | bytearray]:
    """The plain bytes of a stored file, each part compared with its hash before any of it is given.

    Raises ``DamagedObject``, ``ObjectNotFound``, ``IdentityNeeded``.
    """
    pieces = _parts(repository.store, folder, file, advance)
    if not repository.keyring.sealed:
        return pieces
    return open_stream(pieces, repository.keyring.repository_secrets, name=folder + file.name)


def check_file(repository: Repository, folder: str, file: DumpFile) -> None:
    """Compare every stored byte with its hash; no key is needed. Raises ``DamagedObject``."""
    for _ in _parts(repository.store, folder, file, lambda size: None):
        pass


def _parts(
    store: Store, folder: str, file: DumpFile, advance: Callable[[int], object]
) -> Iterator[bytes]:
    """Each part, whole and compared; the next one is on its way meanwhile."""

    def load(part: Part) -> bytes:
        return read_sound(store, folder + part.name, lambda one: _part(one, folder, part))

    with ThreadPoolExecutor(1, thread_name_prefix="dump-read") as pool:
        ahead = pool.submit(load, file.parts[0])
        for number, part in enumerate(file.parts, start=1):
            data = ahead.result()
            if number < len(file.parts):
                ahead = pool.submit(load, file.parts[number])
            yield data
            advance(part.size_bytes)


def _part(store: Store, folder: str, part: Part) -> bytes:
    from blake3 import blake3

    key = folder + part.name
    data = store.get(key)
    if len(data) != part.size_bytes or blake3(data).hexdigest() != part.blake3:
        raise DamagedObject(
            f"{key} is damaged: its bytes are not those that were stored.",
            remedy="Restore this object from a copy of the repository, or take another dump.",
            object=key,
        )
    return data
