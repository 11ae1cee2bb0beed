"""How much memory a server can have here, of each of the kinds that it takes when it starts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_SHARED = Path("/dev/shm")
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class MemoryHere(NamedTuple):
    """In bytes; None where it cannot be told. ``dynamic`` is the size of /dev/shm, ``huge`` what
    lies in huge pages."""

    total: int | None = None
    dynamic: int | None = None
    huge: int | None = None


def look_at_memory() -> MemoryHere:
    """This machine's, or this container's if that has less."""
    text = _read(Path("/proc/meminfo")) or ""
    total = _kilobytes(text, "MemTotal")
    pages, size = re.search(r"HugePages_Total:\s+(\d+)", text), _kilobytes(text, "Hugepagesize")
    limits = [int(found) for path in _LIMITS if (found := _read(path)) and found.strip().isdigit()]
    return MemoryHere(
        min([total, *limits]) if total is not None else None,
        _size_of(_SHARED),
        int(pages[1]) * size if pages and size is not None else None,
    )


def _kilobytes(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _size_of(path: Path) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize if path.is_mount() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
