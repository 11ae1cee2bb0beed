"""Prefetched segments are whole, counted, and gone when they are not needed any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep.archive.prefetch import PrefetchLimits, Spool, fill, following
from pgkeep.errors import StoreUnavailable, WalNotFound
from tests.archive.kit import FIRST, MIB, DataDirectory, Host, names
from tests.processes import is_alive
from tests.servers import wait_until

NAMES = names(12)


@pytest.fixture
def recovering(host: Host, data: DataDirectory) -> Iterator[dict[str, bytes]]:
    """Twelve stored segments, and files that look like a server in recovery."""
    contents = {name: data.add_segment(name) for name in NAMES}
    for name in NAMES:
        assert host.push(data.path, name).returncode == 0
        (data.path / "pg_wal" / name).unlink()
    data.put("recovery.signal")
    data.put("postmaster.pid", "1\n")
    yield contents
    (data.path / "recovery.signal").unlink(missing_ok=True)
    wait_until(lambda: prefetchers(host) == [], what="the prefetching process ends")


def test_the_next_segments_are_ready_before_they_are_asked_for(
    host: Host, data: DataDirectory, recovering: dict[str, bytes]
) -> None:
    assert host.fetch(data.path, NAMES[0]).returncode == 0
    wait_until(lambda: set(spooled(host)) == set(NAMES[1:9]), what="eight segments are prefetched")
    for name in NAMES[1:]:
        told = host.fetch(data.path, name, "-v")
        assert told.returncode == 0
        assert data.fetched() == recovering[name]
        if name in NAMES[1:5]:
            assert "was prefetched" in told.stderr
    assert data.leftovers() == []
    # What is passed is removed, and nothing is there that the store has not.
    wait_until(lambda: spooled(host) == [], what="the spool is empty")


def test_it_ends_with_recovery_and_leaves_nothing(
    host: Host, data: DataDirectory, recovering: dict[str, bytes]
) -> None:
    assert host.fetch(data.path, NAMES[0]).returncode == 0
    wait_until(lambda: spooled(host) == NAMES[1:9], what="eight segments are prefetched")
    (pid,) = prefetchers(host)
    assert inherited(pid) == set()
    assert os.getsid(pid) == pid
    (data.path / "recovery.signal").unlink()
    wait_until(lambda: not is_alive(pid), what="the prefetching process ends")
    assert spooled(host) == []


def test_only_one_process_prefetches(
    host: Host, data: DataDirectory, recovering: dict[str, bytes]
) -> None:
    for name in NAMES[:3]:
        assert host.fetch(data.path, name).returncode == 0
    wait_until(lambda: len(prefetchers(host)) == 1, what="one process prefetches")
    wait_until(lambda: set(spooled(host)) >= set(NAMES[4:10]), what="segments are prefetched")
    assert len(prefetchers(host)) == 1


def test_nothing_is_prefetched_when_no_server_recovers(host: Host, data: DataDirectory) -> None:
    for name in NAMES[:2]:
        data.add_segment(name)
        assert host.push(data.path, name).returncode == 0
    assert host.fetch(data.path, NAMES[0]).returncode == 0
    assert prefetchers(host) == []
    assert not (host.state / "prefetch").exists()


def test_what_a_dead_process_left_is_not_served(
    host: Host, data: DataDirectory, recovering: dict[str, bytes]
) -> None:
    assert host.fetch(data.path, NAMES[0]).returncode == 0
    wait_until(lambda: spooled(host) == NAMES[1:9], what="eight segments are prefetched")
    (pid,) = prefetchers(host)
    os.kill(pid, 9)
    wait_until(lambda: not is_alive(pid), what="it is dead")
    (folder,) = (host.state / "prefetch").iterdir()
    stale = data.segment_bytes(NAMES[1])
    (folder / NAMES[1]).write_bytes(stale)
    assert host.fetch(data.path, NAMES[1]).returncode == 0
    assert data.fetched() == recovering[NAMES[1]] != stale
    wait_until(lambda: set(NAMES[2:10]) <= set(spooled(host)), what="another process took over")
    assert (folder / NAMES[2]).read_bytes() == recovering[NAMES[2]]


def test_a_file_in_the_spool_that_is_no_such_segment_is_not_served(
    host: Host, data: DataDirectory, recovering: dict[str, bytes]
) -> None:
    assert host.fetch(data.path, NAMES[0]).returncode == 0
    wait_until(lambda: spooled(host) == NAMES[1:9], what="eight segments are prefetched")
    (folder,) = (host.state / "prefetch").iterdir()
    (folder / NAMES[1]).write_bytes(recovering[NAMES[1]][:-1])
    (folder / NAMES[2]).write_bytes(recovering[NAMES[3]])
    for name in NAMES[1:3]:
        assert host.fetch(data.path, name).returncode == 0
        assert data.fetched() == recovering[name]


# -- the pieces ------------------------------------------------------------------------------------


class Source:
    """Where ``fill`` fetches from in these tests."""

    def __init__(self, present: list[str]) -> None:
        self.present = set(present)
        self.asked: list[str] = []
        self.error: Exception | None = None

    def fetch(self, name: str, path: str) -> None:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        if name not in self.present:
            raise WalNotFound(f"{name} is not there")
        Path(path).write_text(name)


def filling(spool: Spool, source: Source, **options: int | float) -> tuple[Callable[[], None], ...]:
    """Run ``fill`` in a thread; returns functions that stop it, and that wait for its end."""
    going = threading.Event()
    going.set()
    limits = PrefetchLimits(**{"idle_seconds": 30, "poll_seconds": 0.01, **options})  # type: ignore[arg-type]
    thread = threading.Thread(
        target=fill,
        args=(spool, source.fetch),
        kwargs={"segment_size": MIB, "recovering": going.is_set, "limits": limits},
        daemon=True,
    )
    thread.start()

    def wait() -> None:
        thread.join(10)
        assert not thread.is_alive()

    return going.clear, wait


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    assert spool.open_to_fill()
    return spool


def files(spool: Spool) -> list[str]:
    return sorted(
        p.name for p in spool.folder.iterdir() if p.name[0] == "0" and ".part" not in p.name
    )


def test_the_window_moves_with_recovery(spool: Spool) -> None:
    stop, wait = filling(spool, Source(NAMES), segments=3)
    spool.note_position(NAMES[0])
    wait_until(lambda: files(spool) == NAMES[1:4])
    spool.note_position(NAMES[2])
    # The segment that recovery has now is kept until it was taken.
    wait_until(lambda: files(spool) == NAMES[2:6])
    other = names(5, timeline=2, start=9)
    spool.note_position(other[0])
    wait_until(lambda: files(spool) == [])
    stop()
    wait()


def test_what_is_absent_is_asked_for_again_only_when_recovery_moves(spool: Spool) -> None:
    source = Source(NAMES[:3])
    stop, wait = filling(spool, source, segments=4)
    spool.note_position(NAMES[0])
    wait_until(lambda: files(spool) == NAMES[1:3])
    wait_until(lambda: NAMES[3] in source.asked)
    time.sleep(0.2)  # one behind it may have been asked for at the same moment
    asked = len(source.asked)
    time.sleep(0.2)
    assert len(source.asked) == asked
    source.present.update(NAMES)
    spool.note_position(NAMES[1])
    wait_until(lambda: files(spool) == NAMES[1:6])
    stop()
    wait()


def test_one_slow_segment_does_not_hold_up_the_others(spool: Spool) -> None:
    source, slow = Source(NAMES), threading.Event()

    def fetch(name: str, path: str) -> None:
        if name == NAMES[1]:
            assert slow.wait(30)
        source.fetch(name, path)

    going = threading.Event()
    going.set()
    limits = PrefetchLimits(segments=4, poll_seconds=0.02)
    arguments = {"segment_size": MIB, "recovering": going.is_set, "limits": limits}
    thread = threading.Thread(target=fill, args=(spool, fetch), kwargs=arguments, daemon=True)
    thread.start()
    spool.note_position(NAMES[0])
    wait_until(lambda: files(spool) == NAMES[2:5], what="the others are there")
    # What is on its way stays, although recovery has gone past it.
    spool.note_position(NAMES[2])
    wait_until(lambda: files(spool) == NAMES[2:7])
    assert (spool.folder / f"{NAMES[1]}.part").exists()
    slow.set()
    wait_until(lambda: not (spool.folder / f"{NAMES[1]}.part").exists())
    wait_until(lambda: files(spool) == NAMES[2:7])
    going.clear()
    thread.join(10)
    assert not thread.is_alive()


def test_it_ends_when_nobody_asks_and_at_the_first_trouble(spool: Spool) -> None:
    _, wait = filling(spool, Source(NAMES), idle_seconds=0.2)
    wait()
    source = Source(NAMES)
    source.error = StoreUnavailable("down")
    _, wait = filling(spool, source)
    spool.note_position(NAMES[0])
    wait()


def test_large_segments_are_prefetched_by_the_bytes_not_by_the_number(spool: Spool) -> None:
    source = Source([])
    going = threading.Event()
    going.set()
    spool.note_position(FIRST)

    def fetch(name: str, path: str) -> None:
        going.clear()
        source.fetch(name, path)

    fill(spool, fetch, segment_size=1 << 30, recovering=going.is_set)
    assert len(source.asked) <= 1


def test_a_second_process_does_not_get_the_spool(spool: Spool) -> None:
    assert not Spool(spool.folder).open_to_fill()
    assert Spool(spool.folder).is_served()
    spool.close()
    assert not Spool(spool.folder).is_served()
    assert Spool(spool.folder).open_to_fill()


def test_a_segment_on_its_way_is_waited_for(spool: Spool) -> None:
    (spool.folder / f"{FIRST}.part").touch()
    threading.Timer(0.2, lambda: (spool.folder / FIRST).write_text("x")).start()
    assert Spool(spool.folder).take(FIRST, wait_seconds=5) == str(spool.folder / FIRST)
    assert Spool(spool.folder).take(NAMES[1]) is None


@pytest.mark.parametrize("size", [MIB << power for power in range(11)])
def test_segments_follow_each_other_at_every_size(size: int) -> None:
    per_log = (1 << 32) // size
    last = f"0000000100000007{per_log - 1:08X}"
    expected = (f"00000001{8:08X}{0:08X}", f"00000001{8:08X}{1:08X}")
    assert following(last, 2, segment_size=size) == expected


def spooled(host: Host) -> list[str]:
    found = host.state.glob("prefetch/*/0000*")
    return sorted(path.name for path in found if len(path.name) == 24)


def prefetchers(host: Host) -> list[int]:
    """Processes that prefetch for this host, found by their lock file."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().split(b"\0")
            handles = [str(path.readlink()) for path in (command.parent / "fd").iterdir()]
        except OSError:
            continue
        own = f"{host.state}/prefetch/"
        spool = any(handle.startswith(own) and handle.endswith("/lock") for handle in handles)
        if b"--prefetch" in words and spool and is_alive(int(command.parent.name)):
            found.append(int(command.parent.name))
    return found


def inherited(pid: int) -> set[str]:
    """What the process holds open beside /dev/null and its lock."""
    handles = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return {
        handle
        for handle in handles
        if handle != "/dev/null" and "/prefetch/" not in handle and "/repo" not in handle
    }
