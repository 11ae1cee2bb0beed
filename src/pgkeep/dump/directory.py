"""The directory format as a stream, with no more of it on disk than is being written.

pg_dump writes a directory when several jobs shall work on one database: one file for each table,
each written once and from front to back. As soon as a file is closed it goes into a tar archive,
which is sealed and stored as it grows, and is removed. If files are closed faster than they can be
stored, pg_dump is stopped (SIGSTOP) until they are. So the scratch space holds the files that the
jobs write at the moment and those that wait, at most as many again.

That a file was closed the kernel says (inotify); where it cannot (not on Linux), files are taken
when pg_dump has ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pgkeep.dump.process import Ended, Processes, running

_CLOSE_WRITE = 0x00000008
_EVENT = struct.Struct("iIII")
_PREFIX = "pgkeep-dump-"
_COPY_BYTES = 1 << 20


@contextmanager
def scratch_directory(parent: Path | None) -> Iterator[Path]:
    """An empty directory of our own. What runs that died have left beside it is removed: a lock
    on each says whether its run lives."""
    place = Path(parent or tempfile.gettempdir())
    for old in place.glob(f"{_PREFIX}*"):
        _remove_if_dead(old)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def run_directory(
    processes: Processes,
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    consume: Callable[[bytes], object],
    *,
    waiting: int,
) -> Ended:
    """Run pg_dump into ``directory``, which is empty, and hand the tar archive of what it writes to
    ``consume``. So many closed files may wait before it is stopped. What ``consume`` raises ends
    it."""
    tar = _Tar(consume)
    with (
        _Watch(directory) as watch,
        running(processes, argv, environment, start_new_session=True) as (process, said),
    ):
        _follow(process, watch, directory, tar, waiting)
        ended = said.ended(process)
        if ended.code == 0:
            # The table of contents last: it is written when all else is there.
            for path in sorted(directory.iterdir(), key=lambda one: one.name == "toc.dat"):
                tar.take(path)
            tar.finish()
        return ended


def _follow(
    process: subprocess.Popen[bytes], watch: _Watch, directory: Path, tar: _Tar, waiting: int
) -> None:
    """Take files as they are closed, until pg_dump has ended."""
    queue: list[str] = []
    is_stopped = False
    while process.poll() is None:
        # Lists of large objects may be opened again; they are small, and wait for the end.
        queue += [name for name in watch.closed(0 if queue else 0.1) if ".dat" in name]
        if len(queue) > waiting and not is_stopped:
            _signal(process, signal.SIGSTOP)
            is_stopped = True
        if queue and (name := queue.pop(0)) != "toc.dat":
            tar.take(directory / name)
        if is_stopped and not queue:
            _signal(process, signal.SIGCONT)
            is_stopped = False


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To pg_dump itself. Its workers end their table and wait for it; were they stopped, too, they
    would outlive it if it is killed, with all their locks."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, number)


class _Tar:
    """A tar archive (pax) that is written as a stream and takes each file away."""

    def __init__(self, consume: Callable[[bytes], object]) -> None:
        self._consume = consume
        self._size = 0

    def take(self, path: Path) -> None:
        """Append a file under its plain name, and remove it; again is nothing."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            info = tarfile.TarInfo(path.name)
            info.size = os.fstat(file.fileno()).st_size
            info.mode = 0o600
            self._write(info.tobuf(tarfile.PAX_FORMAT))
            while data := file.read(_COPY_BYTES):
                self._write(data)
        path.unlink()
        self._write(bytes(-info.size % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        """Two empty blocks end it."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        if data:
            self._consume(data)


class _Watch:
    """Which files of a directory were closed after writing."""

    def __init__(self, directory: Path) -> None:
        self._handle = -1
        library = ctypes.CDLL(None, use_errno=True)
        if hasattr(library, "inotify_init1"):
            self._handle = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            path = os.fsencode(directory)
            if (
                self._handle >= 0
                and library.inotify_add_watch(self._handle, path, _CLOSE_WRITE) < 0
            ):
                os.close(self._handle)
                self._handle = -1

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def closed(self, seconds: float) -> list[str]:
        """Their names, in order; waits for so long when there is none."""
        if self._handle < 0:
            select.select([], [], [], seconds)
            return []
        ready, _, _ = select.select([self._handle], [], [], seconds)
        if not ready:
            return []
        data, found, at = os.read(self._handle, 1 << 16), [], 0
        while at < len(data):
            _, _, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length]
            found.append(os.fsdecode(name.rstrip(b"\0")))
            at += _EVENT.size + length
        return found


def _remove_if_dead(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        # Between its making and its lock lies a moment in which a living run has none.
        if os.fstat(handle).st_uid == os.geteuid() and _age(handle) > 60:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


def _age(handle: int) -> float:
    import time

    return time.time() - os.fstat(handle).st_mtime
