"""When the file system fails, the local store says so, and never "not found"."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pgkeep
from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from pgkeep.storage import _publish
from pgkeep.storage.local import LocalStore
from tests.server_user import server_user


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root, create=True)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte."""
    path = Path(tempfile.mkdtemp(prefix="pgk"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        path.rmdir()
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=False, capture_output=True)
    path.rmdir()


def _requests(store: LocalStore) -> list[Callable[[], object]]:
    """Everything that could wrongly answer "not found", or do its work in the wrong place."""
    return [
        lambda: store.get("a/b"),
        lambda: store.get("absent"),
        lambda: store.get_range("a/b", 0, 1),
        lambda: store.head("a/b"),
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


def _fill(store: LocalStore, content: bytes, *, if_absent: bool) -> None:
    for number in range(1000):
        store.put(f"a/{number:03}", content, if_absent=if_absent)


def _files(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def _objects(path: Path) -> list[str]:
    return [name for name in _files(path) if not name.startswith(".pgkeep/")]


def test_a_root_that_vanished_is_not_an_empty_one(root: Path, store: LocalStore) -> None:
    store.put("a/b", b"x")
    shutil.rmtree(root)
    for request in _requests(store):
        with pytest.raises(StoreUnavailable, match="not the one that was opened"):
            request()
    assert not root.exists()


def test_another_directory_in_the_place_of_the_root_is_not_used(
    root: Path, store: LocalStore
) -> None:
    store.put("a/b", b"x")
    root.rename(root.with_name("away"))
    root.mkdir()
    for request in _requests(store)[4:]:
        with pytest.raises(StoreUnavailable, match="not the one that was opened"):
            request()
    assert [*root.iterdir()] == []
    assert _objects(root.with_name("away")) == ["a/b"]


def test_an_unmounted_root_is_not_not_found(small_disk: Path) -> None:
    store = LocalStore(small_disk, create=True)
    store.put("a/b", b"x")
    subprocess.run(["umount", "-l", small_disk], check=True)
    with pytest.raises(StoreUnavailable):
        store.get("absent")
    with pytest.raises(StoreUnavailable):
        store.put("c", b"x")
    with pytest.raises(StoreUnavailable, match="not mounted"):
        LocalStore(small_disk)
    assert [*small_disk.iterdir()] == []


@pytest.mark.parametrize("state", ["missing", "empty"])
def test_a_root_that_may_not_be_mounted_does_not_open(root: Path, state: str) -> None:
    if state == "empty":
        root.mkdir()
    with pytest.raises(StoreUnavailable, match=state) as caught:
        LocalStore(root)
    assert "pgkeep init" in str(caught.value)


def test_a_root_that_is_a_file_does_not_open(root: Path) -> None:
    root.write_bytes(b"")
    for create in (True, False):
        with pytest.raises(StoreError, match="ENOTDIR"):
            LocalStore(root, create=create)


@pytest.mark.parametrize("size_kib", [64, 1500])
@pytest.mark.parametrize("if_absent", [True, False])
def test_a_full_disk_is_said_and_leaves_nothing(
    small_disk: Path, size_kib: int, if_absent: bool
) -> None:
    store = LocalStore(small_disk, create=True)
    content = b"x" * (size_kib * 1024)
    with pytest.raises(StoreFull) as caught:
        _fill(store, content, if_absent=if_absent)
    assert "ENOSPC" in str(caught.value)
    assert _files(small_disk / ".pgkeep" / "tmp") == []
    kept = [info.key for info in store.list("a/")]
    assert all(store.get(key) == content for key in kept)
    assert set(store.delete(kept).values()) <= {None}
    store.put("a/again", b"x" * 65536, if_absent=if_absent)


def test_deleting_works_on_a_disk_with_no_room_for_a_lock(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a/b", b"x")
    _fail_opening(monkeypatch, "locks", errno.ENOSPC)
    assert store.delete(["a/b"]) == {"a/b": None}
    assert not store.exists("a/b")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.ESTALE, StoreUnavailable),
        (errno.ENOTCONN, StoreUnavailable),
        (errno.ETIMEDOUT, StoreUnavailable),
        (errno.EIO, StoreError),
    ],
)
def test_what_the_system_says_is_told_with_the_path(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[StoreError]
) -> None:
    store.put("a/b", b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name, request in (
        ("pread", lambda: store.get("a/b")),
        ("fsync", lambda: store.put("a/c", b"x")),
        ("writev", lambda: store.put("a/c", b"x", if_absent=True)),
        ("scandir", lambda: [*store.list()]),
        ("unlink", lambda: _raise(store.delete(["a/b"])["a/b"])),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StoreError) as caught:
                request()
        assert type(caught.value) is expected
        assert str(store.root) in caught.value.what
        assert os.strerror(number) in (caught.value.why or "")
        assert caught.value.remedy


def test_a_failed_write_leaves_no_object_and_no_temporary_file(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="EIO"):
            store.put("a/b", b"x", if_absent=True)
    assert _files(root) == []


def test_a_directory_that_cannot_be_listed_is_not_skipped(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a/b/c", b"x")
    _fail_opening(monkeypatch, "b", errno.EACCES)
    with pytest.raises(StoreDenied):
        [*store.list()]


def _fail_opening(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    real = os.open

    def fail(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == name:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", fail)


def test_links_are_refused_and_never_skipped(root: Path, store: LocalStore) -> None:
    outside = root.with_name("outside")
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    store.put("a/b", b"x")
    (root / "a" / "file").symlink_to(outside / "x")
    (root / "linked").symlink_to(outside)
    requests: list[Callable[[], object]] = [
        lambda: store.get("linked/x"),
        lambda: store.get("a/file"),
        lambda: store.head("linked/x"),
        lambda: store.head("a/file"),
        lambda: store.put("linked/new", b"x"),
        lambda: _raise(store.delete(["linked/x"])["linked/x"]),
        lambda: _raise(store.delete(["a/file"])["a/file"]),
        lambda: [*store.list("linked/")],
        lambda: [*store.list()],
        lambda: [*store.list("a/")],
    ]
    for request in requests:
        with pytest.raises(StoreError, match="symbolic link") as caught:
            request()
        assert not isinstance(caught.value, ObjectNotFound)
    assert _files(outside) == ["x"]


def test_what_is_no_object_is_not_listed(root: Path, store: LocalStore) -> None:
    store.put("a/b", b"x")
    for name in ("notes~", ".nfs0001", "with space", "a/.b.swp"):
        (root / name).write_bytes(b"x")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_bytes(b"x")
    (root / "lost+found").chmod(0o000)
    os.mkfifo(root / "a" / "pipe")
    try:
        assert [info.key for info in store.list()] == ["a/b"]
    finally:
        (root / "lost+found").chmod(0o700)
    with pytest.raises(ObjectNotFound):
        store.get("a/pipe")


def test_an_object_where_a_directory_is_needed_is_an_error(store: LocalStore) -> None:
    store.put("a/b", b"x")
    for key in ("a/b/c", "a"):
        for if_absent in (True, False):
            with pytest.raises(StoreError) as caught:
                store.put(key, b"y", if_absent=if_absent)
            assert not isinstance(caught.value, ObjectExists)
    assert store.get("a/b") == b"x"


class TestWithoutHardLinks:
    """VFAT, some network file systems."""

    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)

    def test_a_rename_without_replace_does_as_well(self, root: Path, store: LocalStore) -> None:
        assert store.capabilities.conditional_create
        store.put("a/b", b"first", if_absent=True)
        with pytest.raises(ObjectExists):
            store.put("a/b", b"second", if_absent=True)
        assert store.get("a/b") == b"first"
        assert _files(root) == ["a/b"]

    def test_a_rename_without_replace_alone_refuses(self, root: Path, store: LocalStore) -> None:
        store.put("first", b"1")
        store.put("second", b"2")
        handle = os.open(root, os.O_RDONLY)
        with pytest.raises(FileExistsError):
            _publish.rename_if_free(handle, "first", handle, "second")
        os.close(handle)
        assert store.get("second") == b"2"

    def test_without_that_too_the_capability_is_said_to_be_absent(
        self, root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_publish, "rename_if_free", lambda *_: False)
        assert not store.capabilities.conditional_create
        store.put("a/b", b"first", if_absent=True)
        with pytest.raises(ObjectExists):
            store.put("a/b", b"second", if_absent=True)
        assert store.get("a/b") == b"first"
        assert _files(root / "a") == ["b"]
        assert _files(root / ".pgkeep" / "tmp") == []


def test_without_locks_compare_and_swap_is_refused_and_the_rest_works(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert not store.capabilities.compare_and_swap
    etag = store.put("a/b", b"first")
    store.put("a/b", b"second")
    with pytest.raises(StoreError, match="ENOLCK"):
        store.replace("a/b", b"third", etag=etag)
    assert store.delete(["a/b"]) == {"a/b": None}


def test_where_directories_cannot_be_synced_durability_is_said_to_be_absent(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_directories(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    assert not store.capabilities.durable
    store.put("a/b", b"x", if_absent=True)


def test_a_file_system_that_ignores_case_is_refused(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **at: lstat(str(path).lower(), **at))
    with pytest.raises(StoreError, match="capital"):
        _ = store.capabilities


_AS_ANOTHER_USER = """
import sys
from pgkeep.errors import StoreDenied, StoreError
from pgkeep.storage import open_store
store = open_store(sys.argv[1])
def denied(action):
    try:
        action()
    except StoreDenied as error:
        assert sys.argv[1] in error.what and error.remedy, error
        return True
    return False
def delete():
    error = store.delete(["a/b"])["a/b"]
    if error is not None:
        raise error
assert store.get("a/b") == b"x"
assert denied(lambda: store.put("a/c", b"x", if_absent=True))
assert denied(lambda: store.put("a/c", b"x"))
assert denied(lambda: store.replace("a/b", b"x", etag=store.head("a/b").etag))
assert denied(delete)
assert denied(lambda: store.get("secret/x"))
assert denied(lambda: store.exists("secret/absent"))
assert denied(lambda: list(store.list()))
assert denied(lambda: store.capabilities)
assert [info.key for info in store.list("a/")] == ["a/b"]
print("all denied")
"""


def test_whoever_may_only_read_is_denied_the_rest() -> None:
    base = Path(tempfile.mkdtemp(prefix="pgk"))
    root = base / "repository"
    try:
        store = LocalStore(root, create=True, directory_mode=0o755)
        store.put("a/b", b"x")
        store.put("secret/x", b"x")
        source = base / "pgkeep"
        shutil.copytree(Path(pgkeep.__file__).parent, source)
        for path in (base, *base.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (root / "secret").chmod(0o000)
        done = subprocess.run(
            [sys.executable, "-c", _AS_ANOTHER_USER, str(root)],
            env={"PYTHONPATH": str(base), "PATH": os.environ["PATH"]},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **server_user().popen_options(),
        )
        assert done.stdout == "all denied\n", done.stderr
        (root / "secret").chmod(0o555)
        assert _objects(root) == ["a/b", "secret/x"]
    finally:
        for path in (base, *base.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(base)
