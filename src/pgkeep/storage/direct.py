"""Writing large buffers past the page cache.

What a backup or a restore writes is not read again soon, and there is much of it. Through the page
cache each byte is copied once more, into memory that the kernel has to find first and to write
back later; on a virtual machine, whose host has to find that memory too, this took more processor
time than compression. It also drives out of the cache what the server needs there.

``O_DIRECT`` wants offset, length and address to be multiples of a block. Not every file system
takes it, and what each asks for cannot be looked up reliably; so it is tried, and a refusal
(``EINVAL``, always before a byte is written) turns it off for that handle. A caller needs no
second path: :func:`write_at` writes everything, directly as far as that goes.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress

BLOCK_BYTES = 4096
"""A multiple of every block size that storage has today."""

WORTHWHILE_BYTES = 256 << 10
"""Below this, waiting for the device costs more than the copy that is saved."""

_O_DIRECT = getattr(os, "O_DIRECT", 0)


def aligned_buffer(size_bytes: int) -> mmap.mmap:
    """Private zeroed memory that starts on a page, as a direct write wants it."""
    buffer = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them; small pages do as well
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` (bytes) at ``offset``; large and aligned parts directly.

    Nobody else may use ``handle`` meanwhile, since its flags change. Raises ``OSError``.
    """
    whole = len(data) - len(data) % BLOCK_BYTES
    done = 0
    if whole >= WORTHWHILE_BYTES and offset % BLOCK_BYTES == 0:
        done = _write_directly(handle, data[:whole], offset)
    while done < len(data):
        done += os.pwrite(handle, data[done:], offset + done)


def _write_directly(handle: int, data: memoryview, offset: int) -> int:
    """How many bytes could be written so; the rest is for the page cache."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | _O_DIRECT)
    except OSError:
        return 0
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(handle, data[done:], offset + done)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done
