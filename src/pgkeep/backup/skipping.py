"""Which files need not be read, because they are provably what they were.

Size, times and inode that equal the parent's are not enough. The kernel stamps the modification
time when a write *begins*: one that stalls can land after the parent's read, under an old time. So
both times have to be a minute older than the moment at which the parent called
``pg_backup_start``, on the file system's own clock; and the machine must not have been restarted
since, for what was stamped and not yet written is lost then. On a file system that another machine
can write to nothing is skipped, since neither holds there.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from pgkeep.backup.source import SourceFile
from pgkeep.repository.manifest import FileRow

_SETTLED_US = 60_000_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = Path("/proc/self/mountinfo")
# Their times are this kernel's own.
_LOCAL = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "overlay")
)
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Skipping:
    """Judges files by one parent's fact ``boot``. ``everything`` reads all files."""

    def __init__(self, boot: Any, *, everything: bool = False) -> None:
        boot = boot if isinstance(boot, dict) else {}
        known, start = boot.get("boot_id"), boot.get("start_us")
        same_boot = isinstance(known, str) and known == current_boot_id()
        self._before_us = 0
        if same_boot and isinstance(start, int) and not everything:
            self._before_us = start - _SETTLED_US

    def allows(self, file: SourceFile, row: FileRow) -> bool:
        """Whether ``file`` is what it was when the parent read it as ``row``."""
        return (
            file.mtime_us <= self._before_us
            and file.ctime_us <= self._before_us
            and (file.size_bytes, file.mtime_us, file.ctime_us, file.inode)
            == (row.size_bytes, row.mtime_us, row.ctime_us, row.inode)
            and not row.failed_pages
            and is_local(file.place.rpartition("/")[0] or "/")
        )


def current_boot_id() -> str | None:
    """What tells this run of the kernel from all others; None where nothing does."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


@lru_cache(maxsize=4096)
def is_local(directory: str) -> bool:
    """Whether a directory lies on a file system of this machine; what is not known does not."""
    return file_system_of(os.path.realpath(directory), _read_mounts()) in _LOCAL


def file_system_of(path: str, mounts: list[tuple[str, str]]) -> str | None:
    """The type of the file system on which an absolute path without links lies."""
    best, found = -1, None
    for place, kind in mounts:
        below = place.rstrip("/") + "/"
        # Of several mounts on one place the last is the one that is seen.
        if (path + "/").startswith(below) and len(below) >= best:
            best, found = len(below), kind
    return found


def _read_mounts() -> list[tuple[str, str]]:
    try:
        data = _MOUNTS.read_bytes()
    except OSError:
        return []
    return parse_mounts(data)


def parse_mounts(data: bytes) -> list[tuple[str, str]]:
    """(place, type) of each line of /proc/self/mountinfo, in its order (proc(5))."""
    found = []
    for line in data.splitlines():
        before, _, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")[0]
        if len(fields) > 4 and kind:
            place = _OCTAL.sub(lambda match: bytes([int(match.group(1), 8)]), fields[4])
            found.append((os.fsdecode(place), kind.decode()))
    return found
