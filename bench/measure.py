"""One measured run of one command: wall clock, CPU, memory.

Wall clock is from just before the process is started until it has been reaped. CPU is what the
kernel accounts to the process and to every child that it waited for. Memory is reported twice:
the largest single process (exact, by the kernel), and the sum over the process tree at its
largest (sampled; pages that several processes share are counted in each, so for programs of
several processes it is an upper bound, and not to be compared with one process of threads).
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import busy_seconds
from bench.peers import BenchError
from bench.server import clean_env

SAMPLE_SECONDS = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What one run took. ``server_cpu_seconds`` is of the server's processes that it used."""

    wall_seconds: float
    cpu_seconds: float
    peak_process_bytes: int
    peak_tree_bytes: int
    server_cpu_seconds: float = 0.0
    other_cpu_seconds: float = 0.0
    output: str = ""


def run_measured(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    work: Path,
    cwd: Path | None = None,
    server_cpu: Callable[[], float] | None = None,
) -> Usage:
    """Run the command to its end and return what it took. Raises BenchError if it fails."""
    output, errors = work / "command.out", work / "command.err"
    before = server_cpu() if server_cpu else 0.0
    with output.open("wb") as out, errors.open("wb") as err:
        busy = busy_seconds()
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            env=clean_env(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        with _TreeSampler(process.pid) as sampler:
            _, status, usage = os.wait4(process.pid, 0)
            wall_seconds = time.monotonic() - start
            busy = busy_seconds() - busy
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        text = (errors.read_text(errors="replace") or output.read_text(errors="replace"))[-1500:]
        raise BenchError(f"{' '.join(command[:4])} … ended with {process.returncode}: {text}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    server_seconds = (server_cpu() - before) if server_cpu else 0.0
    return Usage(
        wall_seconds=wall_seconds,
        cpu_seconds=cpu_seconds,
        peak_process_bytes=usage.ru_maxrss * 1024,
        peak_tree_bytes=max(sampler.peak_bytes, usage.ru_maxrss * 1024),
        server_cpu_seconds=server_seconds,
        other_cpu_seconds=max(0.0, busy - cpu_seconds - server_seconds),
        output=output.read_text(errors="replace"),
    )


class _TreeSampler:
    """Looks every 50 ms at the resident memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _TreeSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(map(_resident_bytes, _tree(self._pid))))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:
            continue  # it ended while we looked
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0  # it ended while we looked
