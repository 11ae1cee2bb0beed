"""The reading half of a directory as a store: everything that needs no right to write."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from pgkeep.errors import StoreError
from pgkeep.storage._listing import list_objects
from pgkeep.storage._problems import no_object, store_problem
from pgkeep.storage._ranges import check_range, merge_ranges, read_merged
from pgkeep.storage._root import Root
from pgkeep.storage.interface import Buffer, ObjectInfo, Store, check_key
from pgkeep.storage.open import file_url

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# The names of an object's directories, and the name of its file.
KeyPath = tuple[tuple[str, ...], str]


class LocalReader(Store):
    """Objects as files below ``root``; :class:`LocalStore` adds how they come there."""

    def __init__(
        self, root: str | os.PathLike[str], *, create: bool = False, directory_mode: int = 0o700
    ) -> None:
        self.root = os.fspath(root)
        self.url = file_url(self.root)
        self._file_mode = directory_mode & 0o666
        self._root = Root(self.root, create=create, directory_mode=directory_mode)

    def get(self, key: str) -> bytes:
        """See :meth:`Store.get`. One system call into one buffer, up to 2 GiB."""
        with self._opened(key) as (handle, size_bytes):
            return _read(handle, 0, size_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See :meth:`Store.get_range`."""
        check_range(start, length)
        with self._opened(key) as (handle, size_bytes):
            return _read(handle, start, min(length, size_bytes - start))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """See :meth:`Store.get_ranges`. Opens once, and reads near ranges at once."""
        merged = merge_ranges(ranges)
        with self._opened(key) as (handle, size_bytes):
            return read_merged(
                merged,
                lambda start, length: _read(handle, start, min(length, size_bytes - start)),
            )

    def head(self, key: str) -> ObjectInfo:
        """See :meth:`Store.head`."""
        parts, name = path_of(key)
        with self._failing("look at", key):
            with self._root.directory(parts) as directory:
                found = self._look(directory, name)
            if found is None:
                raise self._absent(key)
            return info_of(key, found)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`. Holds the names of one directory a level at a time."""
        with self._failing("list", prefix):
            self._root.check()
            for key, found in list_objects(self._root, prefix, start_after=start_after):
                yield info_of(key, found)
            self._root.check()

    def close(self) -> None:
        """Give the handle of the root back."""
        self._root.close()

    def __del__(self) -> None:
        if hasattr(self, "_root"):
            self._root.close()

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int]]:
        """The object's file and its size."""
        parts, name = path_of(key)
        with self._failing("read", key):
            handle = self._open(key, parts, name)
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    raise self._absent(key)
                yield handle, found.st_size
            finally:
                os.close(handle)

    def _open(self, key: str, parts: tuple[str, ...], name: str) -> int:
        with self._root.directory(parts) as directory:
            if directory is None:
                raise self._absent(key)
            try:
                return os.open(name, READ_FLAGS, dir_fd=directory)
            except FileNotFoundError:
                raise self._absent(key) from None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    self._root.refuse_link(directory, name)
                raise

    def _look(self, directory: int | None, name: str) -> os.stat_result | None:
        """The object's facts; None if there is nothing, or a directory, say."""
        found = None if directory is None else lstat(directory, name)
        if directory is None or found is None or stat.S_ISREG(found.st_mode):
            return found
        self._root.refuse_link(directory, name)
        return None

    @contextmanager
    def _failing(self, doing: str, key: str) -> Iterator[None]:
        """Turn what the system says into what ``Store`` promises to raise."""
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                self._root.check()
            raise store_problem(error, doing=doing, path=f"{self.root}/{key}") from error

    def _absent(self, key: str) -> StoreError:
        """A positive no, or what stands against saying it."""
        self._root.check()
        return no_object(key, self.url)


def path_of(key: str) -> KeyPath:
    """Where the object of ``key`` lies. Raises ``StoreError`` for an illegal key."""
    *parts, name = check_key(key).split("/")
    return tuple(parts), name


def lstat(directory: int, name: str) -> os.stat_result | None:
    """The facts of a directory's entry; None if there is none."""
    try:
        return os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None


def _read(handle: int, start: int, length: int) -> bytes:
    """``length`` bytes, fewer only at the end of the file. The GIL is free meanwhile."""
    if length <= 0:
        return b""
    first = os.pread(handle, length, start)
    if len(first) in (0, length):
        return first
    pieces = [first]
    done = len(first)
    while done < length and (piece := os.pread(handle, length - done, start + done)):
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


def etag_of(found: os.stat_result) -> str:
    """Another one after every write; see ``Temporary.change_time_after`` for why it is."""
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def info_of(key: str, found: os.stat_result) -> ObjectInfo:
    """What the file's facts are to whoever asks for the object's."""
    seconds, rest_ns = divmod(found.st_mtime_ns, 1_000_000_000)
    modified = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1000)
    return ObjectInfo(key, found.st_size, modified, etag_of(found))
