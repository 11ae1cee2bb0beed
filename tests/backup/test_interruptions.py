"""Killed, stopped, starved or cut off: what is listed restores, and what is not is harmless
(invariants 2 and 3)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep.backup import copy
from pgkeep.errors import ServerError, StoreFull, StoreUnavailable
from pgkeep.postgres.backup_session import BackupSession
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from tests import processes
from tests.backup.site import Site, Steered, until
from tests.servers import new_directory

KILLS = 20
GENTLY = ("--rate-limit", "30MiB")


def test_killed_at_any_moment_it_leaves_no_half_backup(site: Site) -> None:
    whole = time_of_whole(site)
    chance = random.Random(20)
    outcomes = []
    for _ in range(KILLS):
        process = site.start_program(*GENTLY)
        try:
            process.communicate(timeout=whole * chance.uniform(0.1, 1.05))
        except subprocess.TimeoutExpired:
            processes.kill_tree(process.pid)
            process.communicate()
        outcomes.append(process.returncode)
    assert outcomes.count(-signal.SIGKILL) >= KILLS // 2
    assert {*outcomes} <= {0, -signal.SIGKILL}
    made = outcomes.count(0)
    assert len([b for b in site.listed() if b.copies == (True, True)]) >= 1 + made
    last = site.backup().head.backup
    assert site.listed()[-1].id == last
    for backup in site.listed():
        site.check_restorable(backup)


def time_of_whole(site: Site) -> float:
    began = time.monotonic()
    process = site.start_program(*GENTLY)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return time.monotonic() - began


@pytest.mark.majors(18)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_stopped_in_the_middle_it_ends_soon(site: Site, number: int, code: int) -> None:
    process = site.start_program("--rate-limit", "100KiB")  # each megabyte takes ten seconds
    threads = Path(f"/proc/{process.pid}/task")
    # The main thread, the one that renews the lease, and two that copy.
    until(lambda: len([*threads.iterdir()]) > 3, what="the copy has begun")
    began = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert site.manifests() == []


@pytest.mark.majors(18)
def test_a_server_that_restarts_during_the_copy_ends_the_backup(site: Site) -> None:
    with pytest.raises(ServerError) as caught:
        site.backup(progress=Steered(at="first bytes", do=site.server.restart))
    assert caught.value.exit_code == 10
    assert site.manifests() == []
    assert site.backup().head.files


@pytest.mark.majors(18)
def test_a_lost_session_is_noticed_while_the_copy_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 400 kB a second the copy would take minutes."""
    monkeypatch.setattr(copy, "_KEEPALIVE_SECONDS", 0.2)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgkeep'"
    began = time.monotonic()
    with pytest.raises(ServerError):
        site.backup(
            rate_limit=400_000,
            progress=Steered(at="first bytes", do=lambda: site.server.psql(end)),
        )
    assert time.monotonic() - began < 20
    assert site.manifests() == []


@pytest.mark.majors(18)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(Failure.FULL, "put", "*/packs/*"),
        Fault(Failure.FULL, "put", "*/manifests/*"),
        Fault(Failure.FULL, "put", "*/pins/*"),
        Fault(Failure.UNAVAILABLE, "put", "*/manifests/*"),
        Fault(Failure.UNAVAILABLE, "list", "*"),
        Fault(Failure.UNAVAILABLE, "*", "*/wal/*", times=None),
    ],
    ids=lambda fault: f"{fault.failure.value}-{fault.method}-{fault.key}",
)
def test_a_store_that_fails_leaves_no_backup_and_does_not_hinder_the_next(
    site: Site, fault: Fault
) -> None:
    faulty = FaultyStore(site.store)
    repository = site.repository(store=faulty)
    faulty.fail(fault)
    with pytest.raises((StoreFull, StoreUnavailable)) as caught:
        site.backup(repository=repository)
    assert caught.value.exit_code in (45, 46)
    assert site.manifests() == []
    site.backup()
    assert len(site.listed()) == 1


@pytest.mark.majors(18)
def test_a_look_for_wal_that_fails_once_is_taken_again(site: Site) -> None:
    """While the copy goes on, nobody waits for the answer."""
    faulty = FaultyStore(site.store)
    faulty.fail(Fault(Failure.UNAVAILABLE, "head", "*/wal/*"))
    looked = Steered(
        at="first bytes",
        do=lambda: until(lambda: faulty.count("head", "*/wal/*"), what="somebody looked"),
    )
    site.backup(repository=site.repository(store=faulty), progress=looked)
    assert len(site.listed()) == 1


@pytest.mark.majors(18)
def test_when_the_second_manifest_fails_the_backup_is_there_and_the_error_too(site: Site) -> None:
    faulty = FaultyStore(site.store)
    repository = site.repository(store=faulty)
    faulty.fail(Fault(Failure.FULL, "put", "*/manifests-copy/*"))
    with pytest.raises(StoreFull):
        site.backup(repository=repository)
    (backup,) = site.listed()
    assert backup.copies == (True, False)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 48 MiB."""
    path = new_directory()
    options = "size=48m,mode=0777"
    if os.geteuid() != 0 or mount("-t", "tmpfs", "-o", options, "tmpfs", path):
        pytest.skip("a small file system cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def mount(*arguments: str | Path) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode


def test_a_full_repository_says_so_and_the_next_backup_after_making_room_works(
    make_site: Callable[..., Site], small_disk: Path
) -> None:
    site = make_site(repository_path=small_disk / "repo")
    (site.server.pgdata / "noise").write_bytes(os.urandom(100 << 20))
    with pytest.raises(StoreFull) as caught:
        site.backup()
    assert caught.value.exit_code == 45
    assert site.manifests() == []
    assert site.listed() == []
    assert mount("-o", "remount,size=400m", small_disk) == 0
    report = site.backup()
    (backup,) = site.listed()
    assert backup.id == report.head.backup
    site.check_restorable(backup)


@pytest.mark.majors(18)
def test_backups_of_the_same_second_have_names_of_their_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace
    from datetime import UTC, datetime

    from pgkeep.postgres.backup_session import StartedBackup

    start = BackupSession.start
    moment = datetime(2026, 11, 20, 1, 59, 59, 900000, tzinfo=UTC)

    def same_second(self: BackupSession, label: str, fast: bool) -> StartedBackup:
        return replace(start(self, label, fast), started_at=moment)

    monkeypatch.setattr(BackupSession, "start", same_second)
    names = [site.backup().head.backup for _ in range(3)]
    assert names == ["20261120T015959Z", "20261120T020000Z", "20261120T020001Z"]
    for name in names:
        site.read(name).check_everything()


@pytest.mark.majors(18)
def test_a_void_name_is_not_taken_again(site: Site) -> None:
    taken: list[str] = []
    exists = site.store.exists

    def first_is_void(key: str) -> bool:
        if key.startswith(site.layout.voids) and not taken:
            taken.append(key.rpartition("/")[2])
            return True
        return exists(key)

    site.store.exists = first_is_void  # type: ignore[method-assign]
    report = site.backup()
    assert taken
    assert report.head.backup > taken[0]
