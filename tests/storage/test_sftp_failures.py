"""When the server or the way to it fails, the SFTP store says so, and never "not found"."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_root import make_directory
from pgkeep.storage.sftp import SftpStore
from tests import processes
from tests.server_user import server_user
from tests.sshd import Sshd
from tests.storage.sftp import directory_of, files, open_store

_LARGE = bytes(64 << 20)


@pytest.fixture
def store(sshd: Sshd) -> Iterator[SftpStore]:
    store = open_store(sshd)
    yield store
    store.close()


def _requests(store: SftpStore) -> list[Callable[[], object]]:
    """Everything that could wrongly answer "not found", or do its work in the wrong place."""
    return [
        lambda: store.get("a/b"),
        lambda: store.get("absent"),
        lambda: store.get_range("a/b", 0, 1),
        lambda: store.get_ranges("a/b", [(0, 1)]),
        lambda: store.head("absent/below"),
        lambda: store.exists("absent"),
        lambda: [*store.list()],
        lambda: [*store.list("a/")],
        lambda: store.put("a/b", b"x", if_absent=True),
        lambda: store.put("new/c", b"x"),
        lambda: store.replace("absent", b"x", etag="x"),
        lambda: _raise(store.delete(["absent"])["absent"]),
    ]


def _raise(error: StoreError | None) -> None:
    if error is not None:
        raise error


def test_a_root_that_vanished_is_not_an_empty_one(store: SftpStore) -> None:
    store.put("a/b", b"x")
    root = directory_of(store)
    shutil.rmtree(root)
    for request in _requests(store):
        with pytest.raises(StoreUnavailable, match="not the one that was opened"):
            request()
    assert not root.exists()


def test_an_unmounted_root_is_not_an_empty_one(store: SftpStore) -> None:
    store.put("a/b", b"x")
    root = directory_of(store)
    root.rename(root.with_name("away"))
    root.mkdir()
    server_user().own(root)
    for request in _requests(store):
        with pytest.raises(StoreUnavailable, match="not the one that was opened"):
            request()
    assert [*root.iterdir()] == []


def test_a_root_that_is_missing_or_empty_is_not_opened(sshd: Sshd) -> None:
    path = sshd.new_directory()
    with pytest.raises(StoreUnavailable, match="is missing"):
        open_store(sshd, path)
    path.mkdir()
    server_user().own(path)
    with pytest.raises(StoreUnavailable, match="is empty"):
        open_store(sshd, path)
    assert [*path.iterdir()] == []
    store = open_store(sshd, path, create=True)
    store.close()
    open_store(sshd, path).close()


def test_missing_directories_above_are_made(sshd: Sshd) -> None:
    path = sshd.new_directory() / "far" / "below"
    store = open_store(sshd, path, create=True)
    store.put("a", b"x")
    assert (path / "a").stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o700
    store.close()


def test_a_copy_that_may_only_be_read_needs_no_directory_of_ours(sshd: Sshd) -> None:
    path = sshd.new_directory()
    (path / "a").mkdir(parents=True)
    (path / "a" / "b").write_bytes(b"copied")
    for directory in (path / "a", path):  # the owner may be the one who runs the server
        directory.chmod(0o555)
    store = open_store(sshd, path)
    assert [info.key for info in store.list()] == ["a/b"]
    assert store.get("a/b") == b"copied"
    with pytest.raises(ObjectNotFound):
        store.get("a/c")
    with pytest.raises(StoreDenied):
        store.put("a/c", b"x")
    store.close()


def test_a_server_killed_in_mid_put_leaves_nothing_to_see(own_sshd: Sshd) -> None:
    store = open_store(own_sshd)
    store.put("before", b"x")
    root = directory_of(store)
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, "large", [_LARGE] * 32, if_absent=True)
        _wait_until(lambda: _temporary_bytes(root) > 1 << 20)
        own_sshd.kill()
        with pytest.raises(StoreUnavailable):
            put.result()
    assert [name for name in files(root) if not name.startswith(".pgkeep/")] == ["before"]
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.get("before")
    own_sshd.start()
    assert store.get("before") == b"x"
    assert not store.exists("large")
    store.put("large", b"now", if_absent=True)
    assert store.get("large") == b"now"
    store.close()


def test_an_idle_connection_that_ended_is_replaced_at_the_next_call(own_sshd: Sshd) -> None:
    store = open_store(own_sshd)
    store.put("a", b"x")
    own_sshd.kill()
    own_sshd.start()
    assert store.get("a") == b"x"
    store.close()


def test_a_server_that_falls_silent_is_given_up(own_sshd: Sshd) -> None:
    store = open_store(own_sshd, silence_seconds=2)
    store.put("a", b"x")
    frozen = [own_sshd.pid, *processes.descendants(own_sshd.pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.get("a")
    assert time.monotonic() - began < 10
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert store.get("a") == b"x"
    store.close()


def test_those_connections_that_a_server_allows_are_enough(own_sshd: Sshd) -> None:
    store = open_store(own_sshd)
    store.put("a", b"x")
    # Who listens is gone; who serves our one connection is not.
    serving = processes.descendants(own_sshd.pid)
    os.kill(own_sshd.pid, signal.SIGTERM)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert {*pool.map(lambda _: store.get("a"), range(100))} == {b"x"}
    finally:
        store.close()
        _wait_until(lambda: not any(map(processes.is_alive, serving)))


@pytest.fixture
def small_disk(sshd: Sshd) -> Iterator[Path]:
    """A file system of four megabytes."""
    path = Path(tempfile.mkdtemp(prefix="r", dir=sshd.folder))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=4m,mode=755,uid={server_user().uid}", "none", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def test_a_full_disk_is_said_to_be_full(sshd: Sshd, small_disk: Path) -> None:
    store = open_store(sshd, small_disk, create=True)
    store.put("fits", bytes(3 << 20))
    for content in (bytes(2 << 20), bytes(200 << 10) * 10):
        with pytest.raises(StoreFull, match="Make room on the server"):
            store.put("not", content, if_absent=True)
    assert files(small_disk) == ["fits"]
    assert store.delete(["fits"]) == {"fits": None}
    store.put("not", bytes(2 << 20), if_absent=True)
    store.close()


def test_a_read_only_file_system_is_said_to_be_so(sshd: Sshd, small_disk: Path) -> None:
    store = open_store(sshd, small_disk, create=True)
    store.put("a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreDenied, match="read-only"):
        store.put("b", b"x")
    assert isinstance(store.delete(["a"])["a"], StoreDenied)
    assert store.get("a") == b"x"
    store.close()


def test_a_directory_that_is_not_ours_is_denied(store: SftpStore) -> None:
    if not server_user().is_other:
        pytest.skip("needs to be root, to make a directory that is another's")
    store.put("a/b", b"x")
    closed = directory_of(store) / "a"
    os.chown(closed, 0, 0)
    with pytest.raises(StoreDenied):
        store.get("a/b")
    with pytest.raises(StoreDenied):
        [*store.list()]
    with pytest.raises(StoreDenied):
        store.put("a/c", b"x", if_absent=True)
    assert isinstance(store.delete(["a/b"])["a/b"], StoreDenied)


def test_what_stands_in_the_way_is_named(store: SftpStore) -> None:
    store.put("a/b", b"x")
    for if_absent in (True, False):
        with pytest.raises(StoreError, match="a/b"):
            store.put("a/b/c", b"x", if_absent=if_absent)
    with pytest.raises(StoreError, match="There is a directory at a"):
        store.put("a", b"x", if_absent=True)
    with pytest.raises(StoreError):
        store.put("a", b"x")
    assert files(directory_of(store)) == ["a/b"]


def test_links_are_not_followed(store: SftpStore) -> None:
    store.put("a/b", b"x")
    root = directory_of(store)
    (root / "a" / "link").symlink_to("b")
    requests: list[Callable[[], object]] = [
        lambda: store.get("a/link"),
        lambda: store.head("a/link"),
        lambda: store.put("a/link", b"x", if_absent=True),
        lambda: [*store.list()],
    ]
    for request in requests:
        with pytest.raises(StoreError, match="is a symbolic link"):
            request()


def test_what_dead_writers_left_is_swept_after_a_day(sshd: Sshd) -> None:
    store = open_store(sshd)
    own = directory_of(store) / ".pgkeep" / "tmp"
    old, young = own / f"put-{'a' * 32}", own / f"put-{'b' * 32}"
    foreign = own / "notes"
    for file in (old, young, foreign):
        file.write_bytes(b"x")
    for file in (old, foreign):
        os.utime(file, (time.time() - 90_000,) * 2)
    store.put("a", b"x")
    assert sorted(path.name for path in own.iterdir()) == sorted([young.name, foreign.name])
    store.close()


def test_many_threads_share_few_connections(own_sshd: Sshd) -> None:
    store = open_store(own_sshd)
    barrier = threading.Barrier(20)

    def come_and_go(number: int) -> None:
        barrier.wait()
        for n in range(5):
            store.put(f"{number}/{n}", b"x" * 100_000, if_absent=True)
            with pytest.raises(ObjectExists):
                store.put(f"{number}/{n}", b"y", if_absent=True)

    with ThreadPoolExecutor(20) as pool:
        [*pool.map(come_and_go, range(20))]
    assert len([*store.list()]) == 100
    assert own_sshd.log().count("Accepted publickey") <= 8
    store.close()


def test_a_closed_store_says_so(sshd: Sshd) -> None:
    store = open_store(sshd)
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        store.get("a")


def _temporary_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / ".pgkeep" / "tmp").iterdir())


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("failures", [2, 99])
def test_a_directory_that_vanished_while_it_was_made_is_made_again(failures: int) -> None:
    """The server says the same when it is there, and when there is no room for it."""
    tried = []

    class Client:
        async def mkdir(self, path: bytes, _: object) -> None:
            tried.append(path)
            if len(tried) <= failures:
                raise asyncssh.SFTPFailure("Failure")

    async def nothing(_: bytes) -> None:
        return None

    session = SimpleNamespace(client=Client(), lstat=nothing)
    making = make_directory(session, b"/repository/deep")  # type: ignore[arg-type]
    if failures > 2:
        with pytest.raises(asyncssh.SFTPFailure):
            asyncio.run(making)
        assert len(tried) == 5
    else:
        asyncio.run(making)
        assert len(tried) == 3
