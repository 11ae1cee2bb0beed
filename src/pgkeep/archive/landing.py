"""Putting a fetched file in its place: whole and durable, or not at all.

PostgreSQL looks at nothing but our exit code, and would replay half a segment as if the archive
ended in it. So the file is written under a temporary name beside its target and renamed.

The bytes are durable before the name appears. The name itself need not be: if a crash takes it away
the server asks again, and what it keeps it makes durable itself (``KeepFileRestoredFromArchive`` in
``src/backend/access/transam/xlogarchive.c``), while recovery would wait for each.

Temporary files of a killed predecessor are removed first, whoever wrote them. That is also the
fence against an orphan which still runs (its server was killed and started again): its
temporary name is gone, so it can no longer put its file where ours belongs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgkeep.errors import LocalIOError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

_MARK = ".pgkeep-"
_COPY_BYTES = 4 << 20


class Landing:
    """A file being written, to appear at ``target``. Use it in a ``with``, then ``finish``.

    Leaving the ``with`` without ``finish`` leaves nothing behind. Raises ``LocalIOError``.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._directory, self._name = os.path.split(os.path.abspath(target))  # noqa: PTH100
        own = f"{self._name}{_MARK}{os.getpid()}-{os.urandom(4).hex()}"
        self._path = os.path.join(self._directory, own)  # noqa: PTH118
        self._handle = -1

    def __enter__(self) -> Self:
        try:
            self._remove_stale()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._handle = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise not_written(self.target, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            _remove(self._path)

    def write(self, pieces: Iterable[bytes]) -> None:
        """Append all pieces."""
        for piece in pieces:
            view = memoryview(piece)
            try:
                while len(view):
                    view = view[os.write(self._handle, view) :]
            except OSError as error:
                raise not_written(self.target, error) from error

    def finish(self) -> None:
        """Make the bytes durable, then let the file appear."""
        try:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = -1
            os.rename(self._path, self.target)  # noqa: PTH104
        except OSError as error:
            _remove(self._path)
            raise not_written(self.target, error) from error

    def _remove_stale(self) -> None:
        prefix = self._name + _MARK
        for name in os.listdir(self._directory):  # noqa: PTH208
            if name.startswith(prefix):
                _remove(os.path.join(self._directory, name))  # noqa: PTH118


def land_file(source: str, target: str) -> None:
    """Move a whole, durable local file to ``target``; copy where the two file systems differ.

    Raises ``LocalIOError``.
    """
    import errno

    try:
        os.rename(source, target)  # noqa: PTH104
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise not_written(target, error) from error
    with Landing(target) as landing:
        try:
            with open(source, "rb", buffering=0) as file:
                landing.write(iter(lambda: file.read(_COPY_BYTES), b""))
        except OSError as error:
            raise not_written(target, error) from error
        landing.finish()
    _remove(source)


def not_written(target: str, error: OSError) -> LocalIOError:
    """The error for a target that could not be written."""
    return LocalIOError(
        f"{target} could not be written.",
        why=f"{error.strerror}.",
        remedy="See that the directory exists, belongs to the server's user and has room.",
        path=target,
    )


def _remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:
        # It is a leftover under a name that nobody reads.
        return
