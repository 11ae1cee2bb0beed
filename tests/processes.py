"""Kill a process with all that it started, as a crash of the machine would.

A server's children found sessions of their own, so a process group does not hold them; and
killed alone, the postmaster leaves children that notice only later and keep its shared memory
in use. The tree is stopped from the top before it is killed, so that nothing new appears.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def kill_tree(pid: int, *, timeout: float = 10) -> None:
    """SIGKILL a process and its descendants; returns once all but ``pid`` are gone.

    ``pid`` itself is left to be waited for by its parent.
    """
    tree = _freeze(pid)
    for member in tree:
        _send(member, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    while any(is_alive(member) for member in tree):
        assert time.monotonic() < deadline, f"processes survived SIGKILL: {tree}"
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    """All processes below this one, parents before children."""
    children: dict[int, list[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def _freeze(pid: int) -> list[int]:
    """Stop the whole tree; look again until nobody new has come."""
    _send(pid, signal.SIGSTOP)
    known = [pid]
    while new := [child for child in descendants(pid) if child not in known]:
        for child in new:
            _send(child, signal.SIGSTOP)
        known += new
    return known


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """A zombie holds nothing any more, and may stay one where nobody waits for orphans."""
    return any(process == pid and state != "Z" for process, _, state in _processes())


def _processes() -> list[tuple[int, int, str]]:
    """(pid, parent, state) of each process; from /proc, since a bare Debian has no ps."""
    if not Path("/proc/self/stat").exists():
        return _processes_by_ps()
    rows = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The second field is the name in parentheses, and may hold anything.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            rows.append((int(stat.parent.name), int(fields[1]), fields[0]))
    return rows


def _processes_by_ps() -> list[tuple[int, int, str]]:
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,state="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [(int(pid), int(parent), state[0]) for pid, parent, state in rows]
