"""The hashes of a backup's pages, kept on this host for the next one to compare with.

Eight bytes a page, 0.1 % of the database. The cache only saves reading pack indexes, so it may be
lost, and nothing may be believed that it cannot prove: it belongs to one attempt, which is random,
of one repository; its index is written after its hashes are durable, ends with a hash of itself,
and appears by a rename. What is damaged after that makes a page look changed, which costs its
storing. A hash of zeros means "not known", and is nobody's: the page counts as changed.

Two files for each attempt: ``<attempt>.hashes`` holds the hashes of file after file, in the order
in which they were finished, and ``<attempt>.index`` says where each file's are.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from pgkeep.postgres.page import HASH_SIZE
from pgkeep.seal.keyring import PageHashKey

_VERSION = 1
_HASHES, _INDEX = ".hashes", ".index"
_COPY_BYTES = 4 << 20


class HashReader:
    """The hashes of one attempt, as far as they are known."""

    def __init__(self, handle: int, files: dict[str, tuple[int, int]]) -> None:
        self._handle, self._files = handle, files

    @classmethod
    def open(
        cls, folder: Path, attempt: str, *, repository_id: str, key: PageHashKey
    ) -> Self | None:
        """None when there is no cache of this attempt that can be believed."""
        index = _read_index(folder / f"{attempt}{_INDEX}")
        wanted = _identity(attempt, repository_id, key)
        if index is None or {name: index.get(name) for name in wanted} != wanted:
            return None
        try:
            handle = os.open(folder / f"{attempt}{_HASHES}", os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        if os.fstat(handle).st_size < index["size"]:
            os.close(handle)
            return None
        files = {path: (at, pages) for path, (at, pages) in index["files"].items()}
        return cls(handle, files)

    def get(self, path: str) -> bytes | None:
        """The hashes of a file's pages, in order; None when they are not known."""
        at, pages = self._files.get(path, (0, -1))
        if pages < 0:
            return None
        found = os.pread(self._handle, pages * HASH_SIZE, at) if pages else b""
        return found if len(found) == pages * HASH_SIZE else None

    def knows(self, path: str) -> bool:
        """Whether the hashes of a file are known."""
        return path in self._files

    def place(self, path: str) -> tuple[int, int]:
        """(offset in the file of hashes, pages) of a file that is known."""
        return self._files[path]

    def read(self, at: int, size_bytes: int) -> bytes:
        """Bytes of the file of hashes."""
        return os.pread(self._handle, size_bytes, at)

    def close(self) -> None:
        os.close(self._handle)


class HashWriter:
    """Collects the hashes of an attempt. Any thread may add a file.

    A disk that is full, or a folder that cannot be written, costs the cache and nothing else:
    ``problem`` then says what was wrong.
    """

    def __init__(
        self, folder: Path | None, attempt: str, *, repository_id: str, key: PageHashKey
    ) -> None:
        self._folder, self._attempt = folder, attempt
        self._identity = _identity(attempt, repository_id, key)
        self._files: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._size = 0
        self._handle = -1
        self.problem: OSError | None = None
        if folder is not None:
            self._guard(self._open)

    def add(self, path: str, hashes: bytes) -> None:
        """The hashes of all pages of a file that was backed up."""
        with self._lock:
            at, self._size = self._size, self._size + len(hashes)
            self._files[path] = (at, len(hashes) // HASH_SIZE)
        self._guard(lambda: self._write(hashes, at))

    def adopt(self, reader: HashReader, paths: Iterable[str]) -> None:
        """Take over the hashes of files that are what they were; of neighbours at once."""
        places = sorted((*reader.place(path), path) for path in paths)
        with self._lock:
            for start, size, members in _neighbours(places):
                base, self._size = self._size, self._size + size
                for at, pages, path in members:
                    self._files[path] = (base + at - start, pages)
                self._guard(partial(self._copy, reader, start, size, base))

    def save(self) -> None:
        """Make durable what there is: now it may serve, should this attempt be broken off."""
        with self._lock:
            index = {**self._identity, "size": self._size, "files": dict(self._files)}
        self._guard(lambda: self._save(index))

    def keep_only(self, attempts: Collection[str]) -> None:
        """Remove the caches of all other attempts."""
        if self._folder is None:
            return
        kept = {f"{attempt}{end}" for attempt in attempts for end in (_HASHES, _INDEX)}
        try:
            for entry in os.scandir(self._folder):
                if entry.name.endswith((_HASHES, _INDEX)) and entry.name not in kept:
                    Path(entry.path).unlink(missing_ok=True)
        except OSError as error:
            self.problem = self.problem or error

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _open(self) -> None:
        assert self._folder is not None
        path = self._folder / f"{self._attempt}{_HASHES}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._handle = os.open(path, flags, 0o600)

    def _copy(self, reader: HashReader, start: int, size_bytes: int, base: int) -> None:
        for done in range(0, size_bytes, _COPY_BYTES):
            found = reader.read(start + done, min(_COPY_BYTES, size_bytes - done))
            self._write(found, base + done)

    def _write(self, hashes: bytes, at: int) -> None:
        view = memoryview(hashes)
        while view:
            count = os.pwrite(self._handle, view, at)
            view, at = view[count:], at + count

    def _save(self, index: dict[str, Any]) -> None:
        assert self._folder is not None
        os.fsync(self._handle)
        path = self._folder / f"{self._attempt}{_INDEX}"
        temporary = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        handle = os.open(temporary, flags, 0o600)
        try:
            text = json.dumps(index).encode()
            view = memoryview(text + b"\n" + _digest(text))
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)

    def _guard(self, action: Callable[[], None]) -> None:
        if self._folder is None or self.problem is not None:
            return
        try:
            action()
        except OSError as error:
            self.problem = error


def _neighbours(
    places: Iterable[tuple[int, int, str]],
) -> Iterator[tuple[int, int, list[tuple[int, int, str]]]]:
    """(start, bytes, files) of each stretch without a gap; ``places`` ascend."""
    members: list[tuple[int, int, str]] = []
    start = end = 0
    for place in places:
        if members and place[0] != end:
            yield start, end - start, members
            members = []
        if not members:
            start = place[0]
        members.append(place)
        end = place[0] + place[1] * HASH_SIZE
    if members:
        yield start, end - start, members


def _identity(attempt: str, repository_id: str, key: PageHashKey) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "attempt": attempt,
        "repository": repository_id,
        "kind": key.kind,
        "shown": key.shown.hex(),
    }


def _read_index(path: Path) -> dict[str, Any] | None:
    """The index, if it is whole."""
    try:
        text, _, digest = path.read_bytes().rpartition(b"\n")
        index = json.loads(text) if digest == _digest(text) else None
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) else None


def _digest(text: bytes) -> bytes:
    from blake3 import blake3

    return blake3(text).hexdigest().encode()
