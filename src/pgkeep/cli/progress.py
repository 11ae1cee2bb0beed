"""Progress as it is shown: a bar with rate and time left on a terminal, else log lines or JSON.

All of it goes to standard error. Workers call ``advance`` thousands of times a second from many
threads, so a call only adds to a number under a lock; drawing happens at most ten times a second,
and a line appears for each tenth of the work or each minute, but never two within ten seconds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from pgkeep.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from pgkeep.cli.log import Log
    from pgkeep.cli.output import Output

LINE_SECONDS = 10.0
QUIET_SECONDS = 60.0
_JSON_SECONDS = 1.0


class ShownProgress:
    """Counts; what is shown is up to the subclasses. ``warnings`` keeps what was warned of."""

    def __init__(
        self, output: Output, log: Log, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.warnings: list[str] = []
        self._output = output
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._begin("")

    def phase(self, name: str) -> None:
        """See :class:`pgkeep.progress.Progress`."""
        with self._lock:
            self._end_phase()
            self._begin(name)
            self._phase_began()
        self._log.info("phase", name=name)

    def total(self, size_bytes: int, files: int = 0) -> None:
        with self._lock:
            self._total, self._files = size_bytes, files
            self._changed()

    def advance(self, size_bytes: int) -> None:
        with self._lock:
            self._done += size_bytes
            self._changed()

    def note(self, text: str) -> None:
        self._log.info("note", text=text)

    def warn(self, text: str) -> None:
        with self._lock:
            self.warnings.append(text)
            self._output.warn(text)

    def tell(self, text: str) -> None:
        """A sentence that is good to know, and no warning."""
        with self._lock:
            self._output.tell(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._end_phase()

    def figures(self) -> dict[str, Any]:
        """The state of the phase, for JSON: bytes, bytes a second, seconds."""
        spent = self._clock() - self._began
        rate = self._done / spent if spent > 0 else 0.0
        left = (self._total - self._done) / rate if rate and self._total else None
        return {
            "phase": self._name,
            "done_bytes": self._done,
            "total_bytes": self._total or None,
            "files": self._files or None,
            "bytes_per_second": round(rate),
            "seconds_left": None if left is None else round(max(left, 0.0), 1),
        }

    def sentence(self) -> str:
        """The same for people: ``81 %  334/412 GiB  431 MiB/s  3m 2s left``."""
        facts = self.figures()
        parts = [format_size(self._done)]
        if self._total:
            share = 100 * self._done // self._total
            parts = [f"{share} %", f"{format_size(self._done)} of {format_size(self._total)}"]
        parts.append(format_rate(facts["bytes_per_second"]))
        if facts["seconds_left"]:
            parts.append(f"{format_duration(facts['seconds_left'])} left")
        return "  ".join(parts)

    def _begin(self, name: str) -> None:
        self._name, self._done, self._total, self._files = name, 0, 0, 0
        self._began = self._shown = self._clock()
        self._shown_done = 0

    def _phase_began(self) -> None:
        """Called under the lock."""

    def _changed(self) -> None:
        """Called under the lock."""

    def _end_phase(self) -> None:
        """Called under the lock."""


class LineProgress(ShownProgress):
    """A line when a phase begins and ends, and now and then between."""

    def _phase_began(self) -> None:
        self._print(f"{self._name} …")

    def _changed(self) -> None:
        waited = self._clock() - self._shown
        tenth = self._done - self._shown_done >= max(1, self._total // 10)
        if waited >= (LINE_SECONDS if tenth else QUIET_SECONDS):
            self._shown, self._shown_done = self._clock(), self._done
            self._print(f"{self._name}: {self.sentence()}")

    def _end_phase(self) -> None:
        if self._name and self._done:
            took = format_duration(self._clock() - self._began)
            self._print(f"{self._name}: {format_size(self._done)} in {took}")

    def _print(self, text: str) -> None:
        print(text, file=self._output.stderr, flush=True)


class JsonProgress(ShownProgress):
    """One JSON object a line, at most one a second within a phase."""

    def _phase_began(self) -> None:
        self._print()

    def _changed(self) -> None:
        if self._clock() - self._shown >= _JSON_SECONDS:
            self._shown = self._clock()
            self._print()

    def _end_phase(self) -> None:
        if self._name and self._done:
            self._print()

    def _print(self) -> None:
        print(json.dumps(self.figures()), file=self._output.stderr, flush=True)


class BarProgress(ShownProgress):
    """A bar on a terminal; drawn by rich, which appears with the first total."""

    _bar: Any = None
    _task: Any = None

    def _phase_began(self) -> None:
        self._print_above(f"{self._name[:1].upper()}{self._name[1:]} …")

    def _changed(self) -> None:
        now = self._clock()
        if self._total and (self._bar is None or now - self._shown >= 0.1):
            self._shown = now
            self._draw()

    def warn(self, text: str) -> None:
        with self._lock:
            self.warnings.append(text)
            self._print_above(f"Warning: {text}")

    def tell(self, text: str) -> None:
        with self._lock:
            self._print_above(text)

    def _end_phase(self) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            self._start_bar()
        self._bar.update(self._task, total=self._total, completed=self._done, facts=self.sentence())

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}", markup=False),
            console=Console(file=self._output.stderr, highlight=False, emoji=False),
            expand=True,
            refresh_per_second=5,
        )
        self._task = self._bar.add_task("", total=self._total, facts="")
        self._bar.start()

    def _print_above(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, file=self._output.stderr, flush=True)


def make_progress(mode: str, output: Output, log: Log) -> ShownProgress:
    """The listener for ``--progress``. ``auto``: nothing with ``--json``, else a bar on a terminal
    and lines elsewhere."""
    if mode == "auto":
        mode = "none" if output.json else "bar" if output.stderr.isatty() else "lines"
    kinds = {"bar": BarProgress, "lines": LineProgress, "json": JsonProgress}
    return kinds.get(mode, ShownProgress)(output, log)
