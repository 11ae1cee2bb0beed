"""Progress: a bar on a terminal, lines elsewhere, JSON on request; never on standard output."""

from __future__ import annotations

import io
import json
import threading

import pytest

from pgkeep.cli.log import Log
from pgkeep.cli.output import Output
from pgkeep.cli.progress import (
    BarProgress,
    JsonProgress,
    LineProgress,
    ShownProgress,
    make_progress,
)
from pgkeep.progress import Progress, Silent

MIB = 1 << 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def output(*, terminal: bool = False, as_json: bool = False) -> Output:
    stderr = Terminal() if terminal else io.StringIO()
    return Output(as_json=as_json, stdout=io.StringIO(), stderr=stderr)


def said(to: Output) -> str:
    assert isinstance(to.stderr, io.StringIO)
    assert isinstance(to.stdout, io.StringIO)
    assert to.stdout.getvalue() == ""
    return to.stderr.getvalue()


def quiet(to: Output) -> Log:
    return Log(to.stderr, on=False, operation="test")


@pytest.mark.parametrize(
    ("mode", "terminal", "as_json", "kind"),
    [
        ("auto", True, False, BarProgress),
        ("auto", False, False, LineProgress),
        ("auto", True, True, ShownProgress),
        ("json", True, False, JsonProgress),
        ("lines", True, False, LineProgress),
        ("none", True, False, ShownProgress),
    ],
)
def test_kind_follows_mode_and_terminal(mode, terminal: bool, as_json: bool, kind) -> None:
    to = output(terminal=terminal, as_json=as_json)
    assert type(make_progress(mode, to, quiet(to))) is kind


def test_lines_come_now_and_then_with_rate_and_time_left() -> None:
    to, clock = output(), Clock()
    with LineProgress(to, quiet(to), clock=clock) as progress:
        progress.phase("copying")
        progress.total(100 * MIB, 7)
        for _ in range(50):
            clock.now += 1
            progress.advance(MIB)
    lines = said(to).splitlines()
    assert lines[0] == "copying …"
    assert lines[1] == "copying: 10 %  10.0 MiB of 100 MiB  1.0 MiB/s  1m 30s left"
    assert len(lines) == 2 + 5
    assert lines[-1] == "copying: 50.0 MiB in 50.0 s"


def test_slow_work_is_reported_each_minute_though_it_is_far_from_a_tenth() -> None:
    to, clock = output(), Clock()
    progress = LineProgress(to, quiet(to), clock=clock)
    progress.phase("copying")
    progress.total(100_000 * MIB)
    for _ in range(120):
        clock.now += 1
        progress.advance(MIB)
    assert len(said(to).splitlines()) == 1 + 2


def test_json_lines_are_valid_and_name_the_phase() -> None:
    to, clock = output(), Clock()
    with JsonProgress(to, quiet(to), clock=clock) as progress:
        progress.phase("copying")
        progress.total(10 * MIB, 3)
        clock.now += 2
        progress.advance(5 * MIB)
    documents = [json.loads(line) for line in said(to).splitlines()]
    assert documents[1]["bytes_per_second"] == 5 * MIB // 2
    assert documents[1]["seconds_left"] == 2.0
    assert {document["phase"] for document in documents} == {"copying"}


def test_bar_shows_share_and_rate() -> None:
    to, clock = output(terminal=True), Clock()
    with BarProgress(to, quiet(to), clock=clock) as progress:
        progress.phase("copying")
        progress.total(10 * MIB, 3)
        clock.now += 2
        progress.advance(5 * MIB)
        progress.warn("look [here]")
    text = said(to)
    assert "50 %" in text
    assert "2.5 MiB/s" in text
    assert "Warning: look [here]" in text


@pytest.mark.parametrize("mode", ["bar", "lines", "json", "none"])
def test_warning_is_seen_in_every_mode_and_kept(mode: str) -> None:
    to = output()
    with make_progress(mode, to, quiet(to)) as progress:
        progress.phase("copying")
        progress.warn("something is odd")
    assert "something is odd" in said(to)
    assert progress.warnings == ["something is odd"]


def test_many_threads_may_report_at_once() -> None:
    to = output()
    progress = LineProgress(to, quiet(to))
    progress.phase("copying")

    def work() -> None:
        for _ in range(2000):
            progress.advance(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.figures()["done_bytes"] == 16000


def test_silent_listener_is_one_too() -> None:
    listener: Progress = Silent()
    listener.phase("x")
    listener.total(1)
    listener.advance(1)
    listener.note("x")
    listener.warn("y")
    assert listener.warnings == ["y"]  # type: ignore[attr-defined]
