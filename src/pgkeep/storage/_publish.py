"""How a whole object appears at once, durable, or not at all.

The bytes are written under a temporary name in a directory where no key can lie (keys have no
part that starts with a dot) and synced; then the name appears by ``link``, which fails if there
is one already. Not every file system has hard links: then ``renameat2`` with RENAME_NOREPLACE
does the same, and where that is missing too, a look under a lock, which holds among the
processes of one host only (``Capabilities.conditional_create`` says so).

A temporary file is locked while its writer lives. What a dead writer leaves is swept by a
later put: by age (24 h, in the file system's own time), or sooner when nobody holds its lock.
A writer that was asleep so long that its file was swept fails and tries again. Only exact names
of ours in the directory of ours are ever swept. The process number is no evidence of death:
another container may have its own numbers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

from pgkeep.errors import StoreUnavailable
from pgkeep.storage._root import Root, change_mode

OWN_DIRECTORY = ".pgkeep"
_TEMPORARY = (OWN_DIRECTORY, "tmp")
_LOCKS = (OWN_DIRECTORY, "locks")
_LOCK_FILES = 64
_NAME = re.compile(r"put-[0-9a-f]{32}")

_SWEEP_ALWAYS_SECONDS = 24 * 3600
_SWEEP_UNLOCKED_SECONDS = 600

_DIRECT_BYTES = 4 << 20
_PIECES_PER_CALL = 512  # Linux takes 1024 (IOV_MAX)
_RENAME_NOREPLACE = 1

# "This file system cannot", as opposed to "this file cannot". EPERM is what link() says on VFAT.
_CANNOT = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EMLINK}
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Temporary:
    """A file that is being written and that nobody sees."""

    def __init__(self, directory: int, mode: int) -> None:
        self.directory = directory
        self.name = new_name()
        self.is_locked = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.handle = os.open(self.name, flags, mode, dir_fd=directory)
        try:
            if stat.S_IMODE(os.fstat(self.handle).st_mode) != mode:
                change_mode(self.handle, mode)
            self.is_locked = try_lock(self.handle)
        except BaseException:
            self.close()
            raise

    def write(self, views: Sequence[memoryview]) -> os.stat_result:
        """Write all pieces in order, unjoined, and sync. Returns what the object will be."""
        if len(views) == 1 and len(views[0]) >= _DIRECT_BYTES:
            # Imported here: what is small, as in wal-push, is not worth the time.
            from pgkeep.storage.direct import write_at

            write_at(self.handle, views[0], 0)
        else:
            write_all(self.handle, views)
        os.fsync(self.handle)
        return os.fstat(self.handle)

    def change_time_after(self, other: os.stat_result) -> os.stat_result:
        """Make our modification time later than ``other``'s, in the file system's own grain.

        An etag is inode, time and size; the inode of an object that was replaced is free again,
        and two writes may fall into one tick of the clock. So without this an etag could come
        back, and a compare-and-swap succeed that should not.
        """
        mine = os.fstat(self.handle)
        for step_ns in (1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000):
            if mine.st_mtime_ns > other.st_mtime_ns:
                return mine
            wanted = other.st_mtime_ns + step_ns
            os.utime(self.handle, ns=(wanted, wanted))
            mine = os.fstat(self.handle)
        return mine

    def create(self, directory: int, name: str) -> bool:
        """Appear as ``name`` if it is free, in one step; False where that is not possible.

        Raises ``FileExistsError`` if it is taken.
        """
        try:
            os.link(self.name, name, src_dir_fd=self.directory, dst_dir_fd=directory)
        except FileExistsError:
            # A network file system may answer a repeated request of ours like that.
            if not os.path.samestat(os.lstat(name, dir_fd=directory), os.fstat(self.handle)):
                raise
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            return rename_if_free(self.directory, self.name, directory, name)
        return True

    def replace(self, directory: int, name: str) -> None:
        """Appear as ``name``, in the place of what is there."""
        os.replace(self.name, name, src_dir_fd=self.directory, dst_dir_fd=directory)

    def still_there(self) -> None:
        """Raise ``StoreUnavailable`` if somebody swept us."""
        if os.fstat(self.handle).st_nlink == 0:
            raise StoreUnavailable(
                "The temporary file of a write vanished before the write was done.",
                why="It was older than a day, or somebody removed it.",
                remedy="Try again.",
            )

    def close(self) -> None:
        """Remove the temporary name, if it is still ours, and the handle."""
        try:
            os.unlink(self.name, dir_fd=self.directory)
        except OSError:
            # Gone by a rename; or it cannot be removed now, and a later put sweeps it.
            pass
        finally:
            os.close(self.handle)


@contextmanager
def temporary(root: Root, mode: int) -> Iterator[Temporary]:
    """A temporary file of ``root``; whatever happens, its temporary name is gone afterwards."""
    with root.made_directory(_TEMPORARY, settle=False) as directory:
        file = Temporary(directory, mode)
        try:
            yield file
        finally:
            file.close()


def sweep(file: Temporary) -> int:
    """Remove what dead writers left beside ``file``, whose own time is "now". How many."""
    now = os.fstat(file.handle).st_mtime
    with os.scandir(file.directory) as entries:
        names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    return sum(_sweep_one(file.directory, name, now) for name in names if name != file.name)


def _sweep_one(directory: int, name: str, now: float) -> bool:
    try:
        found = os.lstat(name, dir_fd=directory)
        age = now - found.st_mtime
        if not stat.S_ISREG(found.st_mode) or age < _SWEEP_UNLOCKED_SECONDS:
            return False
        if age < _SWEEP_ALWAYS_SECONDS and not is_unlocked(directory, name):
            return False
        os.unlink(name, dir_fd=directory)
    except OSError:
        # Another process was faster, or it is another user's: a leftover does no harm.
        return False
    return True


def new_name() -> str:
    """A name that no other writer has, and that :func:`sweep` knows as ours."""
    return f"put-{os.urandom(16).hex()}"


def is_unlocked(directory: int, name: str) -> bool:
    """Whether the lock of a temporary file can be had, so that its writer is dead."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=directory)
    try:
        return try_lock(handle)
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Take the lock of an open file without waiting; False if it is taken, or cannot be."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def locked(root: Root, key: str, *, mode: int, required: bool) -> Iterator[None]:
    """Hold the lock under which ``key`` may be overwritten or deleted.

    Compare-and-swap requires it. Whoever only overwrites or deletes takes it in order not to
    slip in between another's comparison and swap, and goes without where there are no locks
    or no room for a lock file: a full disk must not forbid deleting.
    """
    handle = -1
    try:
        try:
            with root.made_directory(_LOCKS, settle=False) as directory:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                name = f"{crc32(key.encode()) % _LOCK_FILES:02x}"
                handle = os.open(name, flags, mode, dir_fd=directory)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if required or error.errno not in _CANNOT_LOCK | _NO_ROOM:
                raise
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def write_all(handle: int, views: Sequence[memoryview]) -> None:
    """Write the pieces one after the other, many to a system call, however short it falls."""
    waiting = list(views)
    first = 0
    while first < len(waiting):
        written = os.writev(handle, waiting[first : first + _PIECES_PER_CALL])
        while first < len(waiting) and written >= len(waiting[first]):
            written -= len(waiting[first])
            first += 1
        if written:
            waiting[first] = waiting[first][written:]


def rename_if_free(from_directory: int, old: str, to_directory: int, new: str) -> bool:
    """``renameat2(RENAME_NOREPLACE)``; False where kernel or file system do not have it."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    arguments = (from_directory, old.encode(), to_directory, new.encode(), _RENAME_NOREPLACE)
    if call(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), new)
