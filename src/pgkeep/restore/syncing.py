"""Syncing many files at once.

A cluster has a thousand files of a few pages for each database. One fsync after the other, each
waits for a commit of the file system's journal of its own; when several are asked for at the
same moment, one commit serves all. So finished files are handed to a few threads that do nothing
else, while the workers go on. What is handed over is the very handle that was written through:
the kernel reports a failed write to that one for certain.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from pgkeep.errors import LocalIOError

_THREADS = 8
_MOST_WAITING = 64


class Syncer:
    """Use it in a ``with``; leaving it without an error means that all files are durable.

    Raises ``LocalIOError`` there, or from :meth:`hand_over` once one has failed.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sync")
        self._room = threading.Semaphore(_MOST_WAITING)
        self._problem: LocalIOError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if kind is None and self._problem is not None:
            raise self._problem

    def hand_over(self, handle: int, path: Path) -> None:
        """Sync and close ``handle``, soon; it is not the caller's any more."""
        if self._problem is not None:
            os.close(handle)
            raise self._problem
        self._room.acquire()
        done: Future[None] = self._pool.submit(self._sync, handle, path)
        done.add_done_callback(lambda _: self._room.release())

    def _sync(self, handle: int, path: Path) -> None:
        try:
            os.fsync(handle)
        except OSError as error:
            self._problem = unwritable(path, error)
        finally:
            os.close(handle)


def unwritable(path: Path | str, error: OSError) -> LocalIOError:
    """What the local disk said while something was written to ``path``."""
    import errno

    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return LocalIOError(
        f"{path} could not be written.",
        why=f"{error.strerror}.",
        remedy="Make room, remove what was restored so far, and restore again."
        if full
        else "Check the owner and mode of the directory above it, and restore again.",
        path=path,
    )
