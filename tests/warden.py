"""No server and no temporary directory outlives the tests, however they end.

``finally`` and ``atexit`` do not run when the process is killed, and a worker of pytest-xdist
is killed on Ctrl-C. So a small child holds the reading end of a pipe: when we are gone, by
whatever way, it reads end of file, and ends what was entrusted to it and not taken back. It
lives in a session of its own, where a Ctrl-C on the terminal does not reach it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

_PROGRAM = """
import os, shutil, signal, sys, time
kept = {}
for line in sys.stdin:
    verb, kind, what = line.rstrip("\\n").split(" ", 2)
    if verb == "keep":
        kept[kind, what] = None
    else:
        kept.pop((kind, what), None)
pids = [int(what) for kind, what in kept if kind == "process"]
def send(number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass
def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
send(signal.SIGQUIT)
deadline = time.monotonic() + 10
while any(map(alive, pids)) and time.monotonic() < deadline:
    time.sleep(0.05)
send(signal.SIGKILL)
for kind, what in kept:
    if kind == "directory":
        shutil.rmtree(what, ignore_errors=True)
"""


class Warden:
    """Remembers processes and directories, and ends them when this process is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def keep_process(self, pid: int) -> None:
        """End this process when we are gone, unless it is released before."""
        self._tell(f"keep process {pid}")

    def release_process(self, pid: int) -> None:
        """The process has ended and was waited for; its number may soon mean another."""
        self._tell(f"release process {pid}")

    def keep_directory(self, path: Path) -> None:
        """Remove this directory when we are gone."""
        self._tell(f"keep directory {path}")

    def _tell(self, line: str) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        with self._lock:
            stdin.write(line.encode() + b"\n")
            stdin.flush()


@cache
def warden() -> Warden:
    """The one of this process."""
    return Warden()
