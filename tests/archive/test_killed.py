"""Killed at any instant, both commands leave nothing or the whole, and can be run again.

Invariants 1, 3, 17.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator

from tests.archive.kit import DataDirectory, Host, names

# So many living processes are killed; what had ended before its moment does not count.
KILLS = 20
_MOST_ROUNDS = 60


def test_a_killed_push_leaves_nothing_or_the_whole_segment(any_host: Host) -> None:
    data = DataDirectory.make(segment_mib=16)
    any_host.register(data.path)
    moments = Moments()
    tried = []
    for name in moments.rounds():
        tried.append(name)
        content = data.add_segment(name)
        moments.kill(any_host.start("wal-push", f"pg_wal/{name}", cwd=data.path))
        if name in any_host.wal_objects():
            assert any_host.stored(data.path, name) == content
        assert any_host.push(data.path, name).returncode == 0
        assert any_host.stored(data.path, name) == content
        (data.path / "pg_wal" / name).unlink()
    assert any_host.wal_objects() == tried


def test_a_killed_fetch_leaves_nothing_or_the_whole_segment(any_host: Host) -> None:
    data = DataDirectory.make(segment_mib=16)
    any_host.register(data.path)
    first, second = names(2)
    contents = {name: data.add_segment(name) for name in (first, second)}
    for name in contents:
        assert any_host.push(data.path, name).returncode == 0
    moments = Moments()
    for number, _ in enumerate(moments.rounds()):
        name = (first, second)[number % 2]
        (data.path / "pg_wal/RECOVERYXLOG").unlink(missing_ok=True)
        moments.kill(any_host.start("wal-fetch", name, "pg_wal/RECOVERYXLOG", cwd=data.path))
        assert data.fetched() in (None, contents[name])
        assert any_host.fetch(data.path, name).returncode == 0
        assert data.fetched() == contents[name]
        assert data.leftovers() == []


def test_a_push_killed_while_it_works_ahead_loses_nothing(host: Host) -> None:
    data = DataDirectory.make(segment_mib=4)
    host.register(data.path)
    moments = Moments()
    contents = {}
    for first in range(1, 8 * 6, 6):
        batch = names(6, start=first)
        for name in batch:
            contents[name] = data.add_segment(name, ready=True)
        moments.kill(host.start("wal-push", f"pg_wal/{batch[0]}", cwd=data.path), until=1.5)
        for name in batch:
            assert host.push(data.path, name).returncode == 0
            assert host.stored(data.path, name) == contents[name]
            (data.path / f"pg_wal/archive_status/{name}.ready").unlink()
    assert host.wal_objects() == list(contents)


class Moments:
    """Random moments, from the start of a process to a little after it usually ends."""

    def __init__(self) -> None:
        self._random = random.Random()
        self._longest = 0.3
        self.killed = 0

    def rounds(self) -> Iterator[str]:
        """Names of segments, until enough processes were killed."""
        for name in names(_MOST_ROUNDS):
            if self.killed >= KILLS:
                return
            yield name
        raise AssertionError(f"only {self.killed} processes lived at their moment")

    def kill(self, process: subprocess.Popen[str], *, until: float | None = None) -> None:
        """Kill the process at a random moment, if it still runs then."""
        started = time.monotonic()
        try:
            process.wait(self._random.uniform(0, until or self._longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.killed += 1
            # It lives longer than that: look at later moments, too.
            self._longest = min(2.0, self._longest * 1.1)
        else:
            self._longest = (time.monotonic() - started) * 1.1
        process.communicate()
