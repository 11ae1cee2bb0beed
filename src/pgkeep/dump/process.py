"""PostgreSQL's programs as children: their output as it comes, their last words, and their end.

A program that failed has written half of something, and its pipe ends just as after a success. So
nobody is told "that was all" before its exit code was 0.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

from pgkeep.errors import DumpError
from pgkeep.postgres.children import dying_with_us

_PIPE_BYTES = 1 << 20
_SAID_LINES = 40
_WARNING = "warning: "
_MOST_WARNINGS = 10_000
# pg_dump writes 4 KiB at a time. Whoever reads each as it comes is woken up 250,000 times for a
# gigabyte, at the cost of pg_dump's own time; so what comes slowly is left to gather in the pipe.
_GATHER_SECONDS = 0.001


class Ended(NamedTuple):
    """How a program ended: its exit code (negative: the signal), the end of what it said, and the
    warnings in all that it said."""

    code: int
    said: str
    warnings: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Its last lines as a sentence or two, without the program's name before each."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("Command was:")]
        marks = ("error:", "ERROR:", "FATAL:")
        first = [at for at, line in enumerate(lines) if any(mark in line for mark in marks)]
        # From the last error on, with the details that follow it.
        shown = " ".join(lines[first[-1] if first else -3 :][:4])
        if self.code < 0:
            shown = f"It was ended by signal {-self.code}. {shown}".strip()
        return shown or f"It exited with {self.code} and said nothing."


class Processes:
    """The programs that run now, so that all of them can be ended at once."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ending = False

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start one. Raises ``DumpError`` when all were ended."""
        with self._lock:
            if self._ending:
                raise DumpError("The work was stopped.")
            process = subprocess.Popen(dying_with_us(argv, signal.SIGKILL), **options)
            self._running.add(process)
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)

    def end_all(self) -> None:
        """Kill all that run, and let none start any more."""
        with self._lock:
            self._ending = True
            running = list(self._running)
        for process in running:
            kill(process)


def run_reading(
    processes: Processes,
    argv: Sequence[str],
    environment: Mapping[str, str],
    consume: Callable[[memoryview], object],
) -> Ended:
    """Run a program and hand each piece of its standard output to ``consume``, in a buffer that is
    used again. What ``consume`` raises ends it."""
    with running(processes, argv, environment, stdout=subprocess.PIPE) as (process, said):
        assert process.stdout is not None
        widen(process.stdout)
        buffer = bytearray(_PIPE_BYTES)
        handle = process.stdout.fileno()
        with memoryview(buffer) as view:
            while size := os.readv(handle, [view]):
                consume(view[:size])
                if size < _PIPE_BYTES // 4:
                    time.sleep(_GATHER_SECONDS)
        return said.ended(process)


def run_quietly(processes: Processes, argv: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Run a program whose output nobody wants."""
    with running(processes, argv, environment) as (process, said):
        return said.ended(process)


def run_feeding(
    processes: Processes,
    argv: Sequence[str],
    environment: Mapping[str, str],
    pieces: Iterable[bytes | bytearray],
    *,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
) -> Ended:
    """Run a program and write ``pieces`` to its standard input. It may end before it has read
    all; its exit code says whether that was well. What ``pieces`` raises ends it, and is raised
    only after it is dead: it must not take half for the whole."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": stdout}
    with running(processes, argv, environment, **pipes) as (process, said):
        assert process.stdin is not None
        widen(process.stdin)
        handle = process.stdin.fileno()
        try:
            for piece in pieces:
                view = memoryview(piece)
                while len(view):
                    view = view[os.write(handle, view) :]
        except BrokenPipeError:
            pass
        with suppress(BrokenPipeError):
            process.stdin.close()
        return said.ended(process)


@contextmanager
def running(
    processes: Processes, argv: Sequence[str], environment: Mapping[str, str], **options: Any
) -> Iterator[tuple[subprocess.Popen[bytes], Said]]:
    """A program, and what it says, while the block runs; it does not outlive it. Without
    ``options`` it reads nothing and its output goes nowhere."""
    process = processes.start(
        argv,
        env=dict(environment),
        stderr=subprocess.PIPE,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options},
    )
    said = Said(process.stderr)
    try:
        yield process, said
    finally:
        _finish(processes, process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """At once; a group that was stopped, too."""
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        process.kill()


def widen(pipe: IO[bytes]) -> None:
    """A large pipe, so that both sides run at once."""
    with suppress(OSError, AttributeError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _finish(processes: Processes, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        kill(process)
        process.wait()
    processes.forget(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class Said:
    """The last lines of a program's standard error, and its warnings wherever they stand; read in a
    thread of their own."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._lines: deque[str] = deque(maxlen=_SAID_LINES)
        self._warnings: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True, name="dump-said")
        self._thread.start()

    def ended(self, process: subprocess.Popen[bytes]) -> Ended:
        """Wait for the program's end."""
        code = process.wait()
        self._thread.join()
        return Ended(code, "\n".join(self._lines), tuple(self._warnings))

    def _read(self) -> None:
        with self._pipe:
            for data in self._pipe:
                line = data.decode("utf-8", "replace").rstrip("\n")[:1000]
                self._lines.append(line)
                _, mark, warning = line.partition(_WARNING)
                if mark and len(self._warnings) < _MOST_WARNINGS:
                    self._warnings.append(warning)
