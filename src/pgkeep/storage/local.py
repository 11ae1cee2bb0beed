"""A directory of a file system as a store, for ``file:///absolute/path`` repositories.

An object is a plain file whose path below the root is its key. What this store promises beyond
"the file is there" is the reason why it is ours and not a library's:

* A put returns when file, name and every directory above are durable. Also ``ObjectExists`` is
  a promise ("your WAL segment is here already"), so what is found is settled before it is said.
* An object is visible whole or not at all, whenever the writer is killed: see ``_publish``.
* "Not found" is said only while the root is the directory that was opened: see ``_root``.

Of the file system we need hard links or a rename without replace, and locks for
compare-and-swap; what is missing is said in ``capabilities``, by trial.

A put of 32 MiB takes what its write and fsync alone take, within a tenth as measured, so nothing
cleverer (preallocation, ``sync_file_range``, keeping directory handles) is done.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pgkeep.errors import StoreError, StoreUnavailable
from pgkeep.storage._problems import object_exists, replaced_before
from pgkeep.storage._publish import OWN_DIRECTORY, Temporary, locked, sweep, temporary
from pgkeep.storage._reading import (
    READ_FLAGS,
    KeyPath,
    LocalReader,
    etag_of,
    lstat,
    path_of,
)
from pgkeep.storage._root import sync_directory
from pgkeep.storage._trial import try_out
from pgkeep.storage.interface import Buffer, Capabilities, views_of

_ATTEMPTS = 100

_Subject = TypeVar("_Subject")


class LocalStore(LocalReader):
    """Objects as files below ``root``, an absolute path.

    ``directory_mode`` is the mode of the directories that are made (an existing root keeps its
    own); files get its read and write bits. 0o750 lets a group read, 0o770 lets it write.
    With ``create`` the root is made if it is missing. Without, a root that is missing or empty
    raises ``StoreUnavailable``: it looks just like a file system that is not mounted.
    """

    _capabilities: Capabilities | None = None
    _swept = False

    @property
    def capabilities(self) -> Capabilities:
        """Found out at the first look, with small files in a directory of our own."""
        if self._capabilities is None:
            with self._failing("try out the file system below", OWN_DIRECTORY):
                self._root.check()
                self._capabilities = try_out(self._root, self._file_mode)
        return self._capabilities

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`. Buffers are written as they are, without joining them."""
        path = path_of(key)
        views = views_of(data)
        with self._failing("store", key):
            self._root.check()
            if if_absent and self._settle_existing(path):
                raise object_exists(key, self.url)
            with temporary(self._root, self._file_mode) as file:
                etag = etag_of(file.write(views))
                if if_absent:
                    self._publish(file, path, lambda at: self._create(file, at, key, path[1]))
                else:
                    etag = self._overwrite(file, key, path) or etag
                self._sweep_once(file)
        return etag

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        """See :meth:`Store.replace`; safe among all processes that see each other's locks."""
        parts, name = path_of(key)
        with (
            self._failing("replace", key),
            temporary(self._root, self._file_mode) as file,
            self._root.directory(parts) as directory,
        ):
            self._root.check()
            file.write(views_of(data))
            with locked(self._root, key, mode=self._file_mode, required=True):
                found = self._look(directory, name)
                if directory is None or found is None:
                    raise self._absent(key)
                if etag_of(found) != etag:
                    raise replaced_before(key, self.url)
                new = etag_of(file.change_time_after(found))
                file.replace(directory, name)
            sync_directory(directory)
        return new

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """See :meth:`Store.delete`. Each directory is synced once; empty ones are removed."""
        results: dict[str, StoreError | None] = {}
        touched: dict[tuple[str, ...], list[str]] = {}
        for key in keys:
            results[key] = _outcome(self._unlink, key)
            if results[key] is None:
                touched.setdefault(path_of(key)[0], []).append(key)
        for parts, gone in touched.items():
            problem = _outcome(self._settle_deletion, parts)
            results.update(dict.fromkeys(gone, problem))
        return results

    def _publish(self, file: Temporary, path: KeyPath, appear: Callable[[int], None]) -> None:
        """Make directories, let the file appear, sync. Again if a directory was removed
        meanwhile: whoever deletes its last object removes it."""
        for _ in range(_ATTEMPTS):
            try:
                with self._root.made_directory(path[0]) as directory:
                    appear(directory)
                    sync_directory(directory)
                    return
            except FileNotFoundError:
                self._root.check()
                file.still_there()
        raise StoreUnavailable(
            f"The directory of {'/'.join(path[0])} in {self.root} was removed again and again.",
            remedy="See which other program deletes in the repository.",
        )

    def _create(self, file: Temporary, directory: int, key: str, name: str) -> None:
        try:
            if file.create(directory, name):
                return
            with locked(self._root, key, mode=self._file_mode, required=True):
                if lstat(directory, name) is not None:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
                file.replace(directory, name)
        except FileExistsError:
            if self._settle_existing(path_of(key)):
                raise object_exists(key, self.url) from None
            # It was deleted meanwhile (try again), or is no object (say so).
            if lstat(directory, name) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
            raise

    def _overwrite(self, file: Temporary, key: str, path: KeyPath) -> str | None:
        changed: list[str] = []

        def appear(directory: int) -> None:
            with locked(self._root, key, mode=self._file_mode, required=False):
                found = self._look(directory, path[1])
                if found is not None:
                    changed.append(etag_of(file.change_time_after(found)))
                file.replace(directory, path[1])

        self._publish(file, path, appear)
        return changed[-1] if changed else None

    def _settle_existing(self, path: KeyPath) -> bool:
        """Whether the object is there; if so it is durable afterwards, whoever wrote it."""
        parts, name = path
        with self._root.directory(parts) as directory:
            if directory is None or self._look(directory, name) is None:
                return False
        try:
            with self._root.made_directory(parts) as directory:
                _sync_file(directory, name)
                sync_directory(directory)
        except FileNotFoundError:
            return False
        return True

    def _unlink(self, key: str) -> None:
        parts, name = path_of(key)
        with self._failing("delete", key), self._root.directory(parts) as directory:
            found = self._look(directory, name)
            self._root.check()
            if directory is None or found is None:
                return
            with locked(self._root, key, mode=self._file_mode, required=False):
                try:
                    os.unlink(name, dir_fd=directory)
                except FileNotFoundError:
                    return

    def _settle_deletion(self, parts: tuple[str, ...]) -> None:
        with self._failing("sync", "/".join(parts)):
            with self._root.directory(parts) as directory:
                if directory is not None:
                    sync_directory(directory)
            for depth in range(len(parts), 0, -1):
                with self._root.directory(parts[: depth - 1]) as parent:
                    if parent is None or not _remove_directory(parent, parts[depth - 1]):
                        return

    def _sweep_once(self, file: Temporary) -> None:
        if not self._swept:
            self._swept = True
            sweep(file)


def _sync_file(directory: int, name: str) -> None:
    handle = os.open(name, READ_FLAGS, dir_fd=directory)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_directory(parent: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        # In use again, removed by another, or not ours: an empty directory does no harm.
        return False
    return True


def _outcome(action: Callable[[_Subject], None], subject: _Subject) -> StoreError | None:
    try:
        action(subject)
    except StoreError as error:
        return error
    return None
