"""A backup is a guest on the database's host."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from pgkeep.backup.throttle import RateLimit
from tests.backup.scratch import RUN, Scratch

MIB = 1 << 20


class Clock:
    """Time that passes only by sleeping, and by ``work``."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limit(clock: Clock, rate: int | None) -> RateLimit:
    return RateLimit(rate, clock=lambda: clock.now, sleep=clock.sleep)


def test_the_rate_is_kept(clock: Clock) -> None:
    rate = limit(clock, 10 * MIB)
    for _ in range(200):
        rate.spend(MIB)
    assert clock.now - 100.0 == pytest.approx(20.0, abs=1.1)


def test_time_that_nobody_used_is_not_saved_up(clock: Clock) -> None:
    rate = limit(clock, 10 * MIB)
    clock.now += 3600
    began = clock.now
    for _ in range(200):
        rate.spend(MIB)
    assert clock.now - began >= 20.0 - 1.1


def test_who_is_slower_than_the_rate_never_sleeps(clock: Clock) -> None:
    rate = limit(clock, 10 * MIB)
    for _ in range(100):
        clock.now += 0.11
        rate.spend(MIB)
    assert clock.slept == []


def test_without_a_limit_nobody_sleeps(clock: Clock) -> None:
    rate = limit(clock, None)
    for _ in range(100):
        rate.spend(1 << 40)
    assert clock.slept == []


def test_a_copy_by_two_workers_keeps_the_rate(tmp_path: Path) -> None:
    clock, lock = Clock(), threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            clock.sleep(seconds)

    scratch = Scratch(tmp_path, rate=RateLimit(MIB, clock=lambda: clock.now, sleep=sleep))
    scratch.write("file", os.urandom(30 * RUN))
    scratch.copy()
    assert clock.now - 100.0 >= 29.0


def test_low_priority_is_low_for_the_workers_and_fails_nowhere() -> None:
    program = """
        import os, threading
        from pgkeep.backup.throttle import lower_priority
        print(os.nice(3))
        lower_priority(); lower_priority()
        seen = []
        def look():
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        thread = threading.Thread(target=look); thread.start(); thread.join()
        print(*seen)
        os.nice(5)
        lower_priority()
        print(os.nice(0))
        os.nice = None
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    before, lowered, lower_still = map(int, done.stdout.split())
    # Backups made in this very process may have lowered it, and with it the program, before.
    assert lowered == max(before, 10)
    assert lower_still == lowered + 5
