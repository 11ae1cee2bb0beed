"""When does a program first read a file? Asked of the kernel, not of the program.

An inotify watch on the one file reports its opening and its first read as they happen. The
program runs untouched (a tracer would slow every one of its system calls), and the cost to it
is one queued event. What this cannot see is a read through a memory map.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import BenchError
from bench.server import clean_env

IN_ACCESS = 0x1
IN_OPEN = 0x20
IN_CLOEXEC = 0o2000000
EVENT = struct.Struct("iIII")


@dataclass(frozen=True)
class FirstRead:
    """Seconds from just before the start of the process; the whole run's wall clock last."""

    opened_seconds: float | None
    read_seconds: float | None
    wall_seconds: float


def time_to_first_read(
    command: Sequence[str], env: Mapping[str, str], *, path: Path, cwd: Path
) -> FirstRead:
    """Run the command and tell when it first opened and read ``path``. Raises BenchError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(IN_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, bytes(path), IN_OPEN | IN_ACCESS) < 0:
        raise BenchError(f"inotify: {os.strerror(ctypes.get_errno())}")
    seen: dict[int, float] = {}
    full_env = clean_env(env)
    try:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            env=full_env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                ready, _, _ = select.select([descriptor, ended], [], [])
                now = time.monotonic() - start
                if descriptor in ready:
                    for mask in _masks(os.read(descriptor, 65536)):
                        seen.setdefault(mask & (IN_OPEN | IN_ACCESS), now)
                    continue
                break
        finally:
            os.close(ended)
        errors = process.communicate()[1]
    finally:
        os.close(descriptor)
    if process.returncode != 0:
        text = errors.decode(errors="replace")[-1000:]
        raise BenchError(f"{' '.join(command)} ended with {process.returncode}: {text}")
    return FirstRead(seen.get(IN_OPEN), seen.get(IN_ACCESS), now)


def _masks(data: bytes) -> list[int]:
    masks, position = [], 0
    while position < len(data):
        _, mask, _, name_bytes = EVENT.unpack_from(data, position)
        masks.append(mask)
        position += EVENT.size + name_bytes
    return masks
