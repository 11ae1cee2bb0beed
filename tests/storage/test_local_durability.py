"""A put of the local store returns only when the loss of power could not undo it."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pgkeep.errors import ObjectExists
from pgkeep.storage._publish import Temporary
from pgkeep.storage.local import LocalStore

Event = tuple[str, str]


class Recorder:
    """What the store asks of the operating system, in order, with paths below the root."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        self._root = root
        fsync, link, mkdir, replace, unlink = os.fsync, os.link, os.mkdir, os.replace, os.unlink

        def record_fsync(handle: int) -> None:
            self._note("fsync", _path_of(handle))
            fsync(handle)

        def record_link(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            self._note("appear", _path_of(dst_dir_fd) / dst)

        def record_replace(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            replace(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            self._note("appear", _path_of(dst_dir_fd) / dst)

        def record_mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            mkdir(path, mode, dir_fd=dir_fd)
            self._note("mkdir", Path(path) if dir_fd is None else _path_of(dir_fd) / path)

        def record_unlink(path: str, *, dir_fd: int | None = None) -> None:
            unlink(path, dir_fd=dir_fd)
            self._note("unlink", Path(path) if dir_fd is None else _path_of(dir_fd) / path)

        for name, wrapper in (
            ("fsync", record_fsync),
            ("link", record_link),
            ("mkdir", record_mkdir),
            ("replace", record_replace),
            ("unlink", record_unlink),
        ):
            monkeypatch.setattr(os, name, wrapper)

    def take(self) -> list[Event]:
        """What happened since the last call. A temporary file is called ``TMP``."""
        events, self.events = self.events, []
        return events

    def _note(self, what: str, path: Path) -> None:
        if path.name == "locks" or (".pgkeep" in path.parts and what == "mkdir"):
            return
        text = str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)
        self.events.append((what, "TMP" if text.startswith(".pgkeep/tmp/") else text))


def _path_of(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root, create=True)


@pytest.fixture
def recorder(root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(root, monkeypatch)


def test_bytes_then_name_then_directory(store: LocalStore, recorder: Recorder) -> None:
    store.put("a/b/first", b"x", if_absent=True)
    recorder.take()
    store.put("a/b/second", b"x", if_absent=True)
    assert recorder.take() == [
        ("fsync", "TMP"),
        ("appear", "a/b/second"),
        ("fsync", "a/b"),
        ("unlink", "TMP"),
    ]


def test_every_new_directory_is_durable_before_the_name_appears(
    store: LocalStore, recorder: Recorder
) -> None:
    store.put("a/b/c", b"x", if_absent=True)
    assert recorder.take() == [
        ("fsync", "TMP"),
        ("mkdir", "a"),
        ("fsync", "."),
        ("mkdir", "a/b"),
        ("fsync", "a"),
        ("appear", "a/b/c"),
        ("fsync", "a/b"),
        ("unlink", "TMP"),
    ]


def test_a_directory_that_another_process_made_is_made_durable_too(
    root: Path, store: LocalStore, recorder: Recorder
) -> None:
    store.put("a/b/c", b"x")
    recorder.take()
    other = LocalStore(root)
    other.put("a/b/d", b"x")
    assert [path for what, path in recorder.take() if what == "fsync"] == ["TMP", ".", "a", "a/b"]


def test_an_overwrite_is_as_durable(store: LocalStore, recorder: Recorder) -> None:
    first = store.put("a/lease", b"x")
    recorder.take()
    wanted = [("fsync", "TMP"), ("appear", "a/lease"), ("fsync", "a")]
    second = store.put("a/lease", b"y")
    assert recorder.take() == wanted
    store.replace("a/lease", b"z", etag=second)
    assert recorder.take() == wanted
    assert store.head("a/lease").etag != first


def test_an_object_that_exists_is_durable_before_that_is_said(
    root: Path, store: LocalStore, recorder: Recorder
) -> None:
    store.put("a/b/c", b"x")
    recorder.take()
    with pytest.raises(ObjectExists):
        LocalStore(root).put("a/b/c", b"x", if_absent=True)
    assert recorder.take() == [("fsync", "."), ("fsync", "a"), ("fsync", "a/b/c"), ("fsync", "a/b")]


def test_a_delete_is_durable_once_for_each_directory(store: LocalStore, recorder: Recorder) -> None:
    keys = [f"{directory}/{n}" for directory in ("a", "b") for n in range(3)]
    for key in [*keys, "a/stays", "b/stays"]:
        store.put(key, b"x")
    recorder.take()
    store.delete(keys)
    events = recorder.take()
    assert events == [*(("unlink", key) for key in keys), ("fsync", "a"), ("fsync", "b")]


def test_the_root_itself_is_durable_with_all_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path, monkeypatch)
    LocalStore(tmp_path / "new" / "deep" / "root", create=True)
    assert recorder.take() == [
        ("mkdir", "new"),
        ("fsync", "."),
        ("mkdir", "new/deep"),
        ("fsync", "new"),
        ("mkdir", "new/deep/root"),
        ("fsync", "new/deep"),
    ]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o700, 0o600), (0o750, 0o640)])
def test_modes_do_not_depend_on_the_umask(
    tmp_path: Path, umask: int, directory_mode: int, file_mode: int
) -> None:
    before = os.umask(umask)
    try:
        store = LocalStore(tmp_path / "new" / "r", create=True, directory_mode=directory_mode)
        store.put("a/b/c", b"x")
    finally:
        os.umask(before)
    for path in ("new", "new/r", "new/r/a", "new/r/a/b", "new/r/.pgkeep/tmp"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == directory_mode, path
    assert stat.S_IMODE((tmp_path / "new/r/a/b/c").stat().st_mode) == file_mode


def test_an_existing_root_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir(mode=0o755)
    (tmp_path / "r").chmod(0o2755)
    LocalStore(tmp_path / "r", create=True).put("a/b", b"x")
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o2755
    assert stat.S_IMODE((tmp_path / "r" / "a").stat().st_mode) == 0o2700


def _leave(root: Path, name: str, *, age_hours: float) -> Path:
    path = root / ".pgkeep" / "tmp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left behind")
    then = time.time() - age_hours * 3600
    os.utime(path, (then, then))
    return path


def test_what_dead_writers_left_is_swept(root: Path, store: LocalStore) -> None:
    old = _leave(root, f"put-{'0' * 32}", age_hours=25)
    unlocked = _leave(root, f"put-{'1' * 32}", age_hours=1)
    store.put("a", b"x")
    assert not old.exists()
    assert not unlocked.exists()


def test_what_may_be_in_use_is_not_swept(root: Path, store: LocalStore) -> None:
    fresh = _leave(root, f"put-{'0' * 32}", age_hours=0)
    held = _leave(root, f"put-{'1' * 32}", age_hours=1)
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.put("a", b"x")
        assert fresh.exists()
        assert held.exists()


def test_nothing_but_our_own_temporary_names_is_ever_swept(root: Path, store: LocalStore) -> None:
    keys = ["a.tmp.b", "tmp/x", "put-" + "0" * 32, "main/put-" + "0" * 32]
    for key in keys:
        store.put(key, b"x")
    others = [_leave(root, name, age_hours=100) for name in ("mine", "put-1", "put-x.tmp")]
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    LocalStore(root).put("b", b"x")
    assert all(path.exists() for path in others)
    assert [info.key for info in store.list()] == sorted([*keys, "b"])


def test_a_put_whose_temporary_file_was_swept_fails_and_leaves_nothing(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgkeep.errors import StoreUnavailable

    link = os.link

    def sweep_first(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        os.unlink(src, dir_fd=src_dir_fd)
        link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", sweep_first)
    with pytest.raises(StoreUnavailable):
        store.put("a/b", b"x", if_absent=True)
    assert [*store.list()] == []


def test_directories_that_become_empty_go(root: Path, store: LocalStore) -> None:
    store.put("a/b/c/d", b"x")
    store.put("a/e", b"x")
    store.delete(["a/b/c/d"])
    assert sorted(path.name for path in root.iterdir()) == [".pgkeep", "a"]
    assert [path.name for path in (root / "a").iterdir()] == ["e"]
    store.delete(["a/e"])
    assert [path.name for path in root.iterdir()] == [".pgkeep"]


def test_a_put_comes_through_when_its_directory_is_removed_meanwhile(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link
    removed: list[str] = []

    def remove_first(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if len(removed) < 3:
            (root / "a/b").rmdir()
            removed.append(dst)
        link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", remove_first)
    store.put("a/b/c", b"x", if_absent=True)
    assert len(removed) == 3
    assert store.get("a/b/c") == b"x"


@pytest.mark.parametrize("grain_ns", [1, 1_000_000, 1_000_000_000, 2_000_000_000])
def test_each_write_of_a_key_is_later_than_the_one_before_even_in_one_tick_of_the_clock(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, grain_ns: int
) -> None:
    # The inode of a replaced object is free for the next: then only its time tells two apart.
    utime, write = os.utime, Temporary.write

    def coarse_utime(handle: int, *, ns: tuple[int, int]) -> None:
        utime(handle, ns=(ns[0] // grain_ns * grain_ns, ns[1] // grain_ns * grain_ns))

    def write_while_the_clock_stands(
        file: Temporary, views: Sequence[memoryview]
    ) -> os.stat_result:
        write(file, views)
        utime(file.handle, (1_800_000_000, 1_800_000_000))
        return os.fstat(file.handle)

    monkeypatch.setattr(os, "utime", coarse_utime)
    monkeypatch.setattr(Temporary, "write", write_while_the_clock_stands)
    etag = store.put("lease", b"x")
    times = [(root / "lease").stat().st_mtime_ns]
    for n in range(10):
        if n % 2:
            etag = store.replace("lease", b"x", etag=etag)
        else:
            etag = store.put("lease", b"x")
        assert etag == store.head("lease").etag
        times.append((root / "lease").stat().st_mtime_ns)
    assert times == sorted(set(times))
