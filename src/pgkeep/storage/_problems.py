"""What the operating system says, in pgkeep's words, and what a store answers.

The one distinction on which safety rests is that nothing the system says is ever "not found": the
callers decide on absence where they have positively seen it (see ``_root``).
"""

from __future__ import annotations

import errno

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}

# These pass by themselves, or pass when a network or a server is back. EIO is not among them:
# after a failed write-back the kernel forgets the error and calls the next fsync a success, so
# that trying again in the same place may promise what is not so.
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENODEV,
    errno.ENOLCK,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.ENXIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def store_problem(error: OSError, *, doing: str, path: str) -> StoreError:
    """The error to raise for ``error``, met while ``doing`` something at ``path``."""
    kind, remedy = _kind_of(error.errno)
    name = errno.errorcode.get(error.errno or 0, "no error number")
    return kind(
        f"Cannot {doing} {path}.",
        why=f"The system says: {error.strerror or error} ({name}).",
        remedy=remedy,
        path=path,
        errno=name,
    )


def _kind_of(number: int | None) -> tuple[type[StoreError], str]:
    if number in _FULL:
        return StoreFull, "Make room in that file system, or raise the quota of its owner."
    if number == errno.EROFS:
        return StoreDenied, "Mount the file system writable."
    if number in _DENIED:
        return StoreDenied, "Give the user that pgkeep runs as the right to do it."
    if number in _PASSING:
        return StoreUnavailable, "See that the file system is mounted and its server answers."
    if number == errno.EXDEV:
        return StoreError, "Keep the whole repository in one file system: mount it at the top."
    if number == errno.EIO:
        return StoreError, "The disk or the network file system fails: see the kernel's log."
    return StoreError, "See that the file system is sound and the path is a plain directory."


def no_object(key: str, url: str) -> ObjectNotFound:
    """The positive no."""
    return ObjectNotFound(
        f"There is no object {key} in {url}.",
        remedy="Run the command again; if it stays so, bring the object back from a copy of the "
        "repository, or do without what needs it.",
        key=key,
    )


def object_exists(key: str, url: str) -> ObjectExists:
    """A create that found something."""
    return ObjectExists(
        f"There is an object {key} in {url} already.",
        why="Nothing is overwritten.",
        remedy="Run the command again; if it stays so, find out who writes it.",
        key=key,
    )


def replaced_before(key: str, url: str) -> PreconditionFailed:
    """A compare-and-swap that came too late."""
    return PreconditionFailed(
        f"The object {key} in {url} was not replaced.",
        why="Somebody else replaced it first.",
        remedy="Run the command again.",
        key=key,
    )
