"""What the figures were measured on: facts of the machine, none of them a path."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """The machine, as a reader needs it to judge the figures."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    system: str
    python: str
    file_system: str


def describe(work: Path) -> Machine:
    """This machine; ``work`` says whose file system is meant."""
    return Machine(
        cpu=_field("/proc/cpuinfo", r"model name\s*:\s*(.*)") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        system=_field("/etc/os-release", r'PRETTY_NAME="?([^"\n]*)') or platform.system(),
        python=platform.python_version(),
        file_system=_file_system(work),
    )


def busy_seconds() -> float:
    """CPU seconds that all cores together have been busy since the machine started."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, interrupts, soft_interrupts, steal = fields
    busy = user + nice + system + interrupts + soft_interrupts + steal
    return busy / os.sysconf("SC_CLK_TCK")


def _file_system(directory: Path) -> str:
    """The type of the file system that holds the directory, by the longest mount point."""
    best, kind = -1, "unknown file system"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mounted, _, described = line.partition(" - ")
        place = Path(mounted.split()[4])
        if directory.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), described.split()[0]
    return kind


def _field(path: str, pattern: str) -> str | None:
    try:
        match = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return match.group(1).strip() if match else None
