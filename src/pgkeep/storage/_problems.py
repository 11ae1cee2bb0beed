"""What the operating system says, in pgkeep's words.

The one distinction on which safety rests is that none of these is ever "not found": the
callers decide on absence where they have positively seen it (see ``_root``).
"""

from __future__ import annotations

import errno

from pgkeep.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable

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
