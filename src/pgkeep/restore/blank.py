"""Files with a size and no content, for databases that are left out.

The size matters. Recovery writes single pages into such a file, and where the file is too short for
one, the server first fills the gap with pages that do take room.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pgkeep.restore import crc
from pgkeep.restore.syncing import Syncer, unwritable


def make_blank(
    files: Iterable[tuple[Path, int, int]], own: Callable[[int], None], *, over: bool
) -> None:
    """Make each file (its path, size in bytes and mode), durably but for the directories.

    With ``over`` one may stand there, and goes. Raises ``LocalIOError``.
    """
    with Syncer() as syncer:
        for path, size_bytes, mode in files:
            try:
                if over:
                    path.unlink(missing_ok=True)
                handle = _make(path, size_bytes, mode & 0o777, own)
            except OSError as error:
                raise unwritable(path, error) from error
            syncer.hand_over(handle, path)


def checksum_of(size_bytes: int) -> int:
    """The CRC-32C of such a file."""
    return crc.with_zeros(0, size_bytes)


def _make(path: Path, size_bytes: int, mode: int, own: Callable[[int], None]) -> int:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(handle, mode)
        own(handle)
        os.ftruncate(handle, size_bytes)
    except BaseException:
        os.close(handle)
        raise
    return handle
