"""What an SFTP server or the way to it says, in pgkeep's words.

The protocol's third version, which OpenSSH speaks, has few words: "no such file" stands for a
missing one and for a path through a file, and "failure" for a full disk, a name that is taken, a
read-only file system, a broken disk. So callers look again (is the name taken? is there room?)
before they say more. "No such file" is never said to be absence here: see ``_sftp_root``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from pgkeep.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from pgkeep.storage._sftp_address import Address
from pgkeep.storage._sftp_library import asyncssh

# What may be raised by a request that is not a word of ours already.
FAILURES = (asyncssh.Error, OSError, asyncio.IncompleteReadError)

_FULL = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_DENIED = (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)
# These end a session. A malformed answer does too: what comes after it cannot be understood.
_ENDS = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.SFTPBadMessage)
_READ_ONLY_FLAG = 1  # SSH_FXE_STATVFS_ST_RDONLY
# A last write that finds too little room takes what there is, and other writers leave crumbs.
_NO_ROOM_BYTES = 64 * 1024


class Room(NamedTuple):
    """What the file system of the repository says of itself."""

    free_bytes: int
    free_files: int | None
    is_read_only: bool


def room_of(found: asyncssh.SFTPVFSAttrs) -> Room:
    """From the answer to statvfs@openssh.com."""
    # File systems that make inodes as they are needed say that there are none at all.
    free_files = found.favail if found.files else None
    return Room(found.bavail * found.frsize, free_files, bool(found.flags & _READ_ONLY_FLAG))


def ends_session(error: BaseException) -> bool:
    """Whether nothing more can be asked through the session in which this was met."""
    if isinstance(error, asyncssh.SFTPError):
        return isinstance(error, _ENDS)
    return not isinstance(error, StoreError) or isinstance(error, StoreUnavailable)


def sftp_problem(
    error: BaseException, address: Address, *, doing: str, path: str, room: Room | None = None
) -> StoreError:
    """The error to raise for ``error``, met while ``doing`` something at ``path``."""
    kind, remedy = _kind_of(error, room)
    return kind(
        f"Cannot {doing} {path} on {address.server}.",
        why=_why(error, room),
        remedy=remedy,
        path=path,
        server=address.server,
    )


def connect_problem(error: BaseException, address: Address) -> StoreError:
    """The error to raise when no session could be had."""
    if isinstance(error, asyncssh.PermissionDenied):
        return StoreDenied(
            f"The server {address.server} does not let {address.user} in.",
            why=f"It says: {error.reason}.",
            remedy="Put the public key of the user that pgkeep runs as into that account's "
            "authorized_keys, or name the right key file with PGKEEP_SFTP_KEY_FILE.",
            server=address.server,
        )
    if isinstance(error, asyncssh.ChannelOpenError | asyncssh.SFTPError):
        return StoreError(
            f"The server {address.server} lets {address.user} in, and gives no SFTP.",
            why=f"It says: {error.reason}.",
            remedy="See that its sshd_config has 'Subsystem sftp internal-sftp', and that the "
            "account may use it.",
            server=address.server,
        )
    return StoreUnavailable(
        f"The server {address.server} cannot be reached, or it hangs up.",
        why=_why(error, None),
        remedy="See that it runs, that the name and the port are right, that no firewall is in "
        "between, and what its log says.",
        server=address.server,
    )


def _kind_of(error: BaseException, room: Room | None) -> tuple[type[StoreError], str]:
    if isinstance(error, asyncssh.SFTPError) and not isinstance(error, _ENDS):
        if isinstance(error, _FULL) or _is_full(room):
            return StoreFull, "Make room on the server, or raise the quota of the account."
        if room is not None and room.is_read_only:
            return StoreDenied, "Mount the file system writable on the server."
        if isinstance(error, _DENIED):
            return StoreDenied, "Give the account on the server the right to do it."
        if isinstance(error, asyncssh.SFTPOpUnsupported):
            return StoreError, "Use a server that can, OpenSSH for example."
        return StoreError, (
            "See the server's log, whether the quota of the account is used up, and that the "
            "repository lies in one file system of plain files and directories."
        )
    return StoreUnavailable, "See that the server runs and the network to it is sound."


def _is_full(room: Room | None) -> bool:
    return room is not None and (room.free_bytes < _NO_ROOM_BYTES or room.free_files == 0)


def _why(error: BaseException, room: Room | None) -> str:
    if isinstance(error, asyncssh.SFTPError) and room is not None and _is_full(room):
        left = "no more files" if room.free_files == 0 else "no more bytes"
        return f"Its file system has room for {left}."
    if isinstance(error, asyncssh.SFTPError) and room is not None and room.is_read_only:
        return "Its file system is mounted read-only."
    if isinstance(error, asyncssh.SFTPNoSuchFile):
        return "The server says that there is no such file or directory on the way."
    if isinstance(error, TimeoutError):
        return "There was no answer for too long."
    if isinstance(error, socket.gaierror):
        return f"Its name has no address: {error.strerror}."
    if isinstance(error, asyncio.IncompleteReadError):
        return "The connection ended in the middle of an answer."
    if isinstance(error, asyncssh.SFTPError):
        return f"The server says: {error.reason or type(error).__name__}."
    if isinstance(error, asyncssh.Error):
        return f"{error.reason.rstrip('.')}."
    return f"The system says: {getattr(error, 'strerror', None) or error}."
