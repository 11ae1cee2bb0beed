"""Servers that can less than OpenSSH's usually can, and what the SFTP store then promises."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from pgkeep.errors import ObjectExists, StoreDenied, StoreError, StoreUnavailable
from pgkeep.setup.probe import probe_store
from pgkeep.storage.interface import Capabilities
from tests.server_user import server_user
from tests.servers import new_directory
from tests.sshd import Sshd, find_sshd
from tests.storage.sftp import directory_of, files, open_store

_Start = Callable[..., Sshd]


@pytest.fixture
def start() -> Iterator[_Start]:
    """Starts servers that end with the test."""
    if find_sshd() is None:
        pytest.skip("no sshd here: install openssh-server")
    with ExitStack() as stack:

        def started(**options: object) -> Sshd:
            server = Sshd(**options)  # type: ignore[arg-type]
            stack.callback(server.close)
            return server

        yield started


def test_openssh_promises_all_but_compare_and_swap(sshd: Sshd) -> None:
    store = open_store(sshd)
    assert store.capabilities == Capabilities(
        conditional_create=True, compare_and_swap=False, list_after_write=True, durable=True
    )
    assert files(directory_of(store)) == []
    probe = probe_store(store)
    assert probe.can_overwrite
    assert probe.can_delete
    assert len(probe.losses) == 1
    store.close()


def test_without_hard_links_nothing_is_overwritten_and_nothing_promised(start: _Start) -> None:
    store = open_store(start(sftp="-P hardlink"))
    store.put("a/b", b"first", if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("a/b", b"second", if_absent=True)
    assert store.get("a/b") == b"first"
    assert not store.capabilities.conditional_create
    assert store.capabilities.durable
    assert files(directory_of(store)) == ["a/b"]
    store.close()


def test_without_posix_rename_nothing_is_overwritten(start: _Start) -> None:
    store = open_store(start(sftp="-P posix-rename"))
    assert store.capabilities.conditional_create
    store.put("a", b"first")
    with pytest.raises(StoreDenied, match="to remove it first could lose both"):
        store.put("a", b"second")
    assert store.get("a") == b"first"
    assert not probe_store(store).can_overwrite
    store.close()


def test_without_fsync_nothing_is_called_durable(start: _Start) -> None:
    store = open_store(start(sftp="-P fsync"))
    store.put("a", b"x", if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("a", b"x", if_absent=True)
    assert store.get("a") == b"x"
    assert not store.capabilities.durable
    assert store.capabilities.conditional_create
    store.close()


def test_without_any_extension_objects_come_and_go(start: _Start) -> None:
    extensions = "posix-rename,hardlink,fsync,statvfs,limits,lsetstat,expand-path,copy-data"
    store = open_store(start(sftp=f"-P {extensions}"))
    large = os.urandom(1 << 20) * 5
    store.put("a/b", large, if_absent=True)
    assert store.get("a/b") == large
    assert [info.key for info in store.list()] == ["a/b"]
    assert store.delete(["a/b"]) == {"a/b": None}
    assert store.capabilities == Capabilities(
        conditional_create=False, compare_and_swap=False, durable=False
    )
    store.close()


def test_a_server_that_only_reads_denies_the_rest(start: _Start) -> None:
    server = start(sftp="-R")
    path = server.new_directory()
    (path / ".pgkeep" / "tmp").mkdir(parents=True)
    (path / "a").write_bytes(b"x")
    store = open_store(server, path)
    assert store.get("a") == b"x"
    assert [info.key for info in store.list()] == ["a"]
    with pytest.raises(StoreDenied):
        store.put("b", b"x", if_absent=True)
    with pytest.raises(StoreDenied):
        assert store.capabilities
    assert isinstance(store.delete(["a"])["a"], StoreDenied)
    store.close()


def test_a_server_that_hangs_up_is_not_there(start: _Start, tmp_path: Path) -> None:
    """As sshd does when the directory to lock an account into is not as it should be."""
    if os.geteuid() != 0:
        pytest.skip("only root's sshd can lock an account into a directory")
    server = start(as_root=True, options=(f"ChrootDirectory {tmp_path}",))
    with pytest.raises(StoreUnavailable, match="hangs up") as caught:
        open_store(server)
    assert "what its log says" in str(caught.value.remedy)
    assert "bad ownership" in server.log()


def test_a_server_that_gives_no_sftp_says_so(start: _Start) -> None:
    server = start(options=("MaxSessions 0",))
    with pytest.raises(StoreError, match="gives no SFTP"):
        open_store(server)


@pytest.fixture
def cage() -> Iterator[Path]:
    """A directory that is root's, and all above it: sshd demands that, and /tmp is not so."""
    if os.geteuid() != 0:
        pytest.skip("only root's sshd can lock an account into a directory")
    path = new_directory(root=Path("/run"))
    os.chown(path, 0, 0)
    (path / "backups").mkdir()
    yield path
    shutil.rmtree(path)


def test_an_account_may_be_locked_into_its_directory(start: _Start, cage: Path) -> None:
    server_user().own(cage / "backups")
    server = start(as_root=True, options=(f"ChrootDirectory {cage}",))
    store = open_store(server, Path("/backups/main"), create=True)
    store.put("a/b", b"x", if_absent=True)
    assert store.get("a/b") == b"x"
    assert (cage / "backups" / "main" / "a" / "b").read_bytes() == b"x"
    assert store.capabilities.durable
    store.close()


class _Diary:
    """What was asked of the server, in that order; it must have said yes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        paths: dict[int, bytes] = {}
        opening, linking = asyncssh.SFTPClient.open, asyncssh.SFTPClient.link
        syncing = asyncssh.SFTPClientFile.fsync

        async def opened(client: Any, path: bytes, *args: Any, **options: Any) -> Any:
            file = await opening(client, path, *args, **options)
            paths[id(file)] = path
            return file

        async def linked(client: Any, old: bytes, new: bytes) -> None:
            await linking(client, old, new)
            self.lines.append(f"link {_last(new)}")

        async def synced(file: Any) -> None:
            await syncing(file)
            self.lines.append(f"sync {_last(paths[id(file)])}")

        monkeypatch.setattr(asyncssh.SFTPClient, "open", opened)
        monkeypatch.setattr(asyncssh.SFTPClient, "link", linked)
        monkeypatch.setattr(asyncssh.SFTPClientFile, "fsync", synced)


def _last(path: bytes) -> str:
    name = path.rpartition(b"/")[2].decode()
    return "temporary" if name.startswith("put-") else name


def test_the_object_is_synced_then_named_then_all_directories_are_synced(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sshd)
    diary = _Diary(monkeypatch)
    store.put("a/b/object", b"x", if_absent=True)
    assert diary.lines[:2] == ["sync temporary", "link object"]
    assert sorted(diary.lines[2:]) == ["sync a", "sync b", "sync repository"]
    diary.lines.clear()
    with pytest.raises(ObjectExists):
        store.put("a/b/object", b"x", if_absent=True)
    assert diary.lines[0] == "sync object"
    assert sorted(diary.lines[1:]) == ["sync a", "sync b", "sync repository"]
    diary.lines.clear()
    store.delete(["a/b/object"])
    assert diary.lines == ["sync b"]
    store.close()


def test_where_directories_cannot_be_synced_the_object_is_once_more(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such servers open no directory; asyncssh's own is one, but syncs nothing at all."""
    store = open_store(sshd)
    diary = _Diary(monkeypatch)
    opening = asyncssh.SFTPClient.open

    async def refused(client: Any, path: bytes, *args: Any, **options: Any) -> Any:
        if (await client.lstat(path)).permissions & 0o40000:
            raise asyncssh.SFTPFailure("is a directory")
        return await opening(client, path, *args, **options)

    def only_reading(client: Any, path: bytes, mode: str, *args: Any, **options: Any) -> Any:
        ask = refused if mode == "rb" else opening
        return ask(client, path, mode, *args, **options)

    monkeypatch.setattr(asyncssh.SFTPClient, "open", only_reading)
    store.put("a/object", b"x", if_absent=True)
    assert diary.lines == ["sync temporary", "link object", "sync object"]
    assert not store.capabilities.durable
    store.close()
