"""A holder counts as gone only where that can be seen: on this kernel, by these process numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.progress import Silent
from pgkeep.repository.holder import Process, this_process
from pgkeep.repository.lease import Lease
from pgkeep.repository.record import build_record
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, LAYOUT

ME = this_process("here")
pytestmark = pytest.mark.skipif(ME.start is None, reason="needs Linux's /proc")


class Child:
    """A process that waits, and what it would write into a lease."""

    def __init__(self) -> None:
        wait = "import sys; print(flush=True); sys.stdin.read()"
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen([sys.executable, "-c", wait], stdin=pipe, stdout=pipe)
        assert self.popen.stdout
        self.popen.stdout.readline()
        stat = Path(f"/proc/{self.popen.pid}/stat").read_text()
        self.process = ME._replace(
            pid=self.popen.pid, start=int(stat.rpartition(")")[2].split()[19])
        )

    def kill(self) -> None:
        self.popen.kill()
        # Waits for the end, and leaves the zombie.
        os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        self.popen.kill()
        self.popen.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


def test_a_process_that_runs_is_not_gone(child: Child) -> None:
    assert not child.process.is_gone(seen_by=ME)
    assert not ME.is_gone(seen_by=ME)


def test_a_process_that_was_killed_is_gone_before_and_after_it_is_reaped(child: Child) -> None:
    child.kill()
    assert child.process.is_gone(seen_by=ME)
    child.close()
    assert child.process.is_gone(seen_by=ME)


def test_another_process_with_its_number_is_not_it() -> None:
    assert ME.start is not None
    assert ME._replace(start=ME.start - 1).is_gone(seen_by=ME)


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "there"},
        {"boot": "another"},
        {"boot": None},
        {"pid_ns": "pid:[1]"},
        {"pid_ns": None},
        {"start": None},
        {"pid": 0},
        {"pid": -1},
        {"pid": 1 << 70},
    ],
    ids=str,
)
def test_where_it_cannot_be_seen_nothing_is_known(child: Child, changes: dict[str, object]) -> None:
    child.close()
    unknown = child.process._replace(**changes)  # type: ignore[arg-type]
    assert not unknown.is_gone(seen_by=ME)


def test_two_who_know_nothing_of_themselves_are_not_the_same() -> None:
    nowhere = Process("here", 999_999_999, None, None, 1)
    assert not nowhere.is_gone(seen_by=Process("here", os.getpid(), None, None, 1))


def test_the_lease_of_a_run_that_was_killed_here_is_taken_at_once(child: Child) -> None:
    store = MemoryStore()
    process = child.process
    members = {
        "holder": "other",
        "attempt": "cd" * 16,
        "seconds": 60,
        "boot": process.boot,
        "pid_ns": process.pid_ns,
        "start": process.start,
    }
    by = {"host": "here", "pid": process.pid, "version": "0"}
    store.put(LAYOUT.lease, build_record("lease", members, at=AT, by=by))
    child.kill()

    def pause(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    lease = Lease(store, LAYOUT, attempt="ab" * 16, by=by, progress=Silent(), pause=pause)
    assert lease.acquire()
