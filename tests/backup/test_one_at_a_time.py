"""One backup of a cluster at a time, and no harm done where two are made nonetheless (format,
section 2.7)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pgkeep.backup.run import BackupReport
from pgkeep.errors import BackupRunning
from pgkeep.repository.record import build_record, parse_record
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.interface import Capabilities
from tests import processes
from tests.backup.site import AT, BY, Site, Steered, until

pytestmark = pytest.mark.majors(18)


def test_a_second_backup_is_refused_and_leaves_nothing(site: Site) -> None:
    def kept() -> list[str]:
        found = [info.key for info in site.store.list(site.layout.root)]
        return [key for key in found if "/wal/" not in key]  # the first one's may arrive now

    def second() -> None:
        before = kept()
        with pytest.raises(BackupRunning) as caught:
            site.backup(lease_seconds=2)
        assert caught.value.exit_code == 72
        assert kept() == before

    first = site.backup(lease_seconds=2, progress=Steered(at="copying", do=second))
    assert [backup.id for backup in site.listed()] == [first.head.backup]
    lease = parse_record(site.store.get(site.layout.lease), "lease", kind="lease")
    assert (lease["attempt"], lease["seconds"]) == (first.head.attempt, 0)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_killed_backup_does_not_hinder_the_next(site: Site) -> None:
    process = site.start_program("--rate-limit", "100KiB")
    until(lambda: site.store.exists(site.layout.lease), what="the lease is taken")
    processes.kill_tree(process.pid)
    process.communicate()
    lease = parse_record(site.store.get(site.layout.lease), "lease", kind="lease")
    assert lease["seconds"] == 60
    began = time.monotonic()
    site.backup()
    assert time.monotonic() - began < 40


def test_a_backup_whose_lease_is_taken_goes_on_and_says_so(site: Site) -> None:
    members = {"holder": "other", "attempt": "cd" * 16, "purpose": "backup", "seconds": 60}

    def take() -> None:
        record = build_record("lease", members, at=AT, by={**BY, "host": "db-new"})
        site.store.put(site.layout.lease, record)
        until(lambda: progress.warnings, what="it noticed")

    progress = Steered(at="copying", do=take)
    report = site.backup(lease_seconds=0.4, progress=progress)
    (warning,) = progress.warnings
    assert "db-new" in warning
    assert [backup.id for backup in site.listed()] == [report.head.backup]
    lease = parse_record(site.store.get(site.layout.lease), "lease", kind="lease")
    assert (lease["attempt"], lease["seconds"]) == ("cd" * 16, 60)


class Leaseless(FaultyStore):
    """A store that cannot compare and swap."""

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities._replace(compare_and_swap=False)


def test_two_backups_at_once_are_two_where_no_lease_keeps_them_apart(site: Site) -> None:
    together = threading.Barrier(2, timeout=60)
    repository = site.repository(store=Leaseless(site.store))
    reports: list[BackupReport] = []

    def run() -> None:
        meet = Steered(at="copying", do=together.wait)
        reports.append(site.backup(repository=repository, progress=meet))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len({report.head.backup for report in reports}) == 2
    assert len({report.head.attempt for report in reports}) == 2
    assert not site.store.exists(site.layout.lease)
    for backup in site.listed():
        site.check_restorable(backup)
