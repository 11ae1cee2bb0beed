"""A repository that is away for a while: a backup waits for it, says so, and can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.site import Site, until

pytestmark = pytest.mark.majors(18)
GENTLY = ("--rate-limit", "6MiB", "--progress", "lines")


class Running:
    """``pgkeep backup`` in the middle of its copy, and what it has said."""

    def __init__(self, site: Site) -> None:
        self.said = ""
        # What does not compress, so that packs are stored all along.
        (site.server.pgdata / "noise").write_bytes(os.urandom(48 << 20))
        self.process = site.start_program(*GENTLY)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said += line

    def end(self, *, within: float) -> int:
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(10)


@pytest.fixture
def away(site: Site) -> Path:
    """Where the repository is while it is away."""
    return site.repository_path.with_name("away")


@pytest.fixture
def running(site: Site) -> Iterator[Running]:
    running = Running(site)
    try:
        until(lambda: "copying" in running.said, what="the copy has begun")
        yield running
    finally:
        running.process.kill()
        running.end(within=10)


def test_a_backup_outlives_an_outage_and_tells_of_it(
    site: Site, running: Running, away: Path
) -> None:
    site.repository_path.rename(away)
    until(lambda: "does not answer" in running.said, what="the outage is told")
    time.sleep(2)
    away.rename(site.repository_path)
    assert running.end(within=120) == 0, running.said
    assert running.said.count("does not answer") == 1
    assert running.said.count("answers again") == 1
    (backup,) = site.listed()
    site.check_restorable(backup)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_backup_that_waits_for_its_repository_ends_at_once_when_told(
    site: Site, running: Running, away: Path, number: int, code: int
) -> None:
    site.repository_path.rename(away)
    until(lambda: "does not answer" in running.said, what="the outage is told")
    began = time.monotonic()
    running.process.send_signal(number)
    assert running.end(within=30) == code, running.said
    assert time.monotonic() - began < 5
    assert "Traceback" not in running.said
    away.rename(site.repository_path)
    assert site.manifests() == []


def test_a_server_that_is_lost_meanwhile_is_told_without_waiting_for_the_repository(
    site: Site, running: Running, away: Path
) -> None:
    site.repository_path.rename(away)
    until(lambda: "does not answer" in running.said, what="the outage is told")
    site.server.stop("immediate")
    # It looks after its session every fifteen seconds.
    assert running.end(within=45) == 10, running.said
    away.rename(site.repository_path)
