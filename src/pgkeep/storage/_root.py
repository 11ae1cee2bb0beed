"""The repository's root directory as a handle, and the ways from it to an object's directory.

Every path is walked from a handle of the root, directory by directory, without following
symbolic links. That settles three questions which a path as text leaves open:

* *Is it still the same repository?* When a file system is unmounted, what shows is the empty
  directory below: reading there would say "not found", which ends a recovery early, and
  writing there would be a promise into the wrong disk. The handle stays with what was opened,
  and :meth:`Root.check` compares it with what the path shows now. Only while they agree is a
  missing name a positive no.
* *Can a link lead out, or hide something?* A linked directory that listing passes over would
  look like backups that do not exist, and a sweep would delete the packs that they need. So a
  link inside a repository is an error for everybody, never something to skip.
* *Is the way to the object durable?* A new object is safe only when each directory above it
  is. We cannot know that about a directory that another process has just made, so each one is
  settled once per process.
"""
# pathlib knows no directory handles, and costs 12 ms at the start.
# ruff: noqa: PTH101, PTH102, PTH112, PTH116, PTH120

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pgkeep.errors import StoreError, StoreUnavailable
from pgkeep.storage._problems import store_problem

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# What file systems say that cannot sync a directory at all (CIFS, some of FUSE).
NO_DIRECTORY_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS}


class Root:
    """An open root directory. Methods raise ``OSError`` as it comes, unless they say else."""

    def __init__(self, path: str, *, create: bool, directory_mode: int) -> None:
        self.path = path
        self._mode = directory_mode
        self._settled: set[tuple[int, int]] = set()
        try:
            if create:
                self._make_root()
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _nothing_there(path, "is missing") from error
        except OSError as error:
            raise store_problem(error, doing="open the repository directory", path=path) from error
        opened = os.fstat(self._handle)
        self._identity = (opened.st_dev, opened.st_ino)
        if not create and self._is_empty():
            self.close()
            raise _nothing_there(path, "is empty")

    def close(self) -> None:
        """Give the handle back; closing twice is fine."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def check(self) -> None:
        """Raise ``StoreUnavailable`` unless the path still shows the directory we opened."""
        try:
            now = os.stat(self.path)
        except FileNotFoundError as error:
            raise _gone(self.path, "It is not there any more.") from error
        except OSError as error:
            raise store_problem(
                error, doing="look at the repository directory", path=self.path
            ) from error
        if (now.st_dev, now.st_ino) != self._identity:
            raise _gone(self.path, "Another directory stands in its place.")

    @contextmanager
    def directory(self, parts: Sequence[str]) -> Iterator[int | None]:
        """A handle of the directory at ``parts``; None if a part is absent or is an object.

        Raises ``StoreError`` when a part is a symbolic link.
        """
        handle: int | None = os.dup(self._handle)
        try:
            for name in parts:
                assert handle is not None
                child = self._enter(handle, name)
                os.close(handle)
                handle = child
                if handle is None:
                    break
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    @contextmanager
    def subdirectory(self, parent: int, name: str) -> Iterator[int | None]:
        """Like :meth:`directory`, one step from a handle that is at hand."""
        handle = self._enter(parent, name)
        try:
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    @contextmanager
    def made_directory(self, parts: Sequence[str], *, settle: bool = True) -> Iterator[int]:
        """Like :meth:`directory`, and makes what is missing. ``FileNotFoundError`` when somebody
        removes a directory at the same moment: try again.

        With ``settle`` every directory on the way is durable afterwards.
        """
        handle = os.dup(self._handle)
        try:
            for name in parts:
                child = self._enter_or_make(handle, name, settle=settle)
                os.close(handle)
                handle = child
            yield handle
        finally:
            os.close(handle)

    def _enter(self, parent: int, name: str) -> int | None:
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            self.refuse_link(parent, name)
            return None

    def _enter_or_make(self, parent: int, name: str, *, settle: bool) -> int:
        made = False
        child = self._enter(parent, name)
        if child is None:
            made = self._make(parent, name)
            child = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            found = os.fstat(child)
            identity = (found.st_dev, found.st_ino)
            if settle and (made or identity not in self._settled):
                sync_directory(parent)
                self._settled.add(identity)
        except BaseException:
            os.close(child)
            raise
        return child

    def _make(self, parent: int, name: str) -> bool:
        try:
            os.mkdir(name, self._mode, dir_fd=parent)
        except FileExistsError:
            return False
        # The umask may have taken bits away; what an inherited setgid bit gave stays.
        made = os.stat(name, dir_fd=parent, follow_symlinks=False)
        wanted = self._mode | (made.st_mode & stat.S_ISGID)
        if stat.S_IMODE(made.st_mode) != wanted:
            change_mode(name, wanted, directory=parent)
        return True

    def refuse_link(self, directory: int, name: str) -> None:
        """Raise ``StoreError`` if ``name`` is a symbolic link."""
        try:
            found = os.lstat(name, dir_fd=directory)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(found.st_mode):
            raise StoreError(
                f"{name!r} in the repository {self.path} is a symbolic link.",
                why="pgkeep follows no links inside a repository: what lies behind one could "
                "be missing without anybody noticing.",
                remedy="Replace the link by what it points to, or by a bind mount.",
            )

    def _make_root(self) -> None:
        missing = []
        path = self.path
        while not os.path.isdir(path) and path != "/":
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            try:
                os.mkdir(path, self._mode)
            except FileExistsError:
                continue
            change_mode(path, self._mode)
            sync_path(os.path.dirname(path))

    def _is_empty(self) -> bool:
        with os.scandir(self._handle) as entries:
            return next(entries, None) is None


def change_mode(target: str | int, mode: int, *, directory: int | None = None) -> None:
    """chmod, where the file system has modes at all (VFAT and CIFS may have none)."""
    try:
        if directory is None:
            os.chmod(target, mode)
        else:
            os.chmod(target, mode, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise


def sync_directory(handle: int) -> bool:
    """fsync a directory; False where the file system cannot do that to directories."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in NO_DIRECTORY_SYNC:
            return False
        raise
    return True


def sync_path(path: str) -> None:
    """fsync the directory at ``path``, if we may read it (the root's parent may not be ours)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        sync_directory(handle)
    finally:
        os.close(handle)


def _nothing_there(path: str, state: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The repository directory {path} {state}.",
        why="Nothing was initialised there, or its file system is not mounted.",
        remedy="Mount it; or make a new repository there with 'pgkeep init'.",
        path=path,
    )


def _gone(path: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The repository directory {path} is not the one that was opened.",
        why=why,
        remedy="Mount its file system again, or put the directory back.",
        path=path,
    )
