"""Work ahead is fast, silent, and never an answer for another file than the one that was read.

Invariant 16.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from pgkeep.archive.ahead import AheadLimits, AheadRecords, push_ahead, ready_names
from pgkeep.archive.source import FileMark, WalSource
from pgkeep.errors import StoreUnavailable
from tests.archive.kit import FIRST, DataDirectory, Host, names
from tests.servers import new_directory

NAMES = names(6)


@pytest.fixture
def waiting(host: Host, data: DataDirectory) -> dict[str, bytes]:
    """Six segments that wait for being archived, of which the first was asked for and pushed."""
    contents = {name: data.add_segment(name, ready=True) for name in NAMES}
    assert host.push(data.path, FIRST).returncode == 0
    return contents


def test_files_that_wait_are_pushed_in_the_same_run(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    assert host.wal_objects() == NAMES
    for name, content in waiting.items():
        assert host.stored(data.path, name) == content


def test_a_file_pushed_ahead_is_answered_without_being_sent_again(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    for name in NAMES[1:]:
        done = host.push(data.path, name, env={})
        assert done.returncode == 0
        told = host.run("wal-push", f"pg_wal/{name}", "-v", cwd=data.path)
        assert "was pushed ahead of this call" in told.stderr


def age_records(host: Host, seconds: float = 61.0) -> None:
    """As if what was pushed ahead had been so long ago."""
    records = [path for path in (host.state / "ahead").rglob("*") if path.is_file()]
    assert records
    for path in records:
        past = path.stat().st_mtime - seconds
        os.utime(path, (past, past))


def test_within_a_minute_the_repository_is_not_asked_again(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    away = host.root / "away"
    host.repository_path.rename(away)
    assert host.push(data.path, NAMES[1]).returncode == 0
    away.rename(host.repository_path)
    age_records(host)
    for name in NAMES[1:]:
        told = host.run("wal-push", f"pg_wal/{name}", "-v", cwd=data.path)
        assert "was pushed ahead of this call" in told.stderr


def test_a_record_of_the_future_is_not_of_just_now(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    """The host's clock was set back: nothing tells how old the record is."""
    age_records(host, -3600)
    data.put("postmaster.pid", "1\n/data\n1\n5432\n/tmp\n\n  1 2\nstopping\n")
    host.repository_path.rename(host.root / "away")
    assert host.push(data.path, NAMES[1]).returncode == 46


@pytest.mark.parametrize("change", ["content", "size", "mtime", "inode", "content, mtime kept"])
def test_a_file_that_is_not_the_one_that_was_read_is_compared_with_the_store(
    host: Host, data: DataDirectory, waiting: dict[str, bytes], change: str
) -> None:
    """The cluster was rolled back behind the upload, and wrote the segment again."""
    name = NAMES[3]
    path = data.path / "pg_wal" / name
    before = path.stat()
    expected = 31
    if change == "content":
        data.add_segment(name)
    elif change == "content, mtime kept":
        with open(path, "r+b") as file:
            file.seek(9000)
            file.write(b"another history")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_ino == before.st_ino
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    elif change == "size":
        data.add_file(name, waiting[name][:-1])
        expected = 32
    elif change == "mtime":
        os.utime(path)
        expected = 0
    else:
        shutil.copy2(path, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
        data.own()
        expected = 0

    done = host.run("wal-push", f"pg_wal/{name}", "-v", cwd=data.path)

    assert done.returncode == expected
    assert "pushed ahead of this call" not in done.stderr
    assert host.stored(data.path, name) == waiting[name]


def test_a_record_counts_for_its_repository_only(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    """Another repository stands at the same URL now: nothing there was pushed ahead."""
    age_records(host)
    other = Host(new_directory())
    other.register(data.path)
    shutil.rmtree(host.repository_path)
    other.repository_path.rename(host.repository_path)
    done = host.push(data.path, NAMES[1])
    assert done.returncode == 53
    # Also when the host no longer remembers which repository it knew.
    shutil.rmtree(host.state / "repositories")
    assert host.push(data.path, NAMES[1]).returncode == 0
    host.identity_file = other.identity_file
    assert host.stored(data.path, NAMES[1]) == waiting[NAMES[1]]


def test_a_record_counts_for_its_cluster_only(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    host.register(data.path, cluster="other")
    host.configure(cluster="other")
    assert host.push(data.path, NAMES[1]).returncode == 0
    key = f"other/{data.control.system_identifier}/wal/{NAMES[1][:16]}/{NAMES[1]}"
    assert host.store.exists(key)


def test_a_record_counts_for_its_place_only(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    """The repository has moved to another place, or a mirror of it is what is archived to now: it
    has the same identity, and not what was pushed ahead."""
    behind = host.root / "behind"
    shutil.copytree(host.repository_path, behind)
    shutil.rmtree(behind / f"main/{data.control.system_identifier}/wal")
    host.give_away()
    host.configure(repo=f"file://{behind}")
    assert host.push(data.path, NAMES[1]).returncode == 0
    assert list(behind.rglob(NAMES[1]))


def test_a_record_counts_for_as_many_copies_as_it_was_made_for(
    host: Host, data: DataDirectory
) -> None:
    mirror = host.root / "mirror"
    shutil.copytree(host.repository_path, mirror)
    host.give_away()
    for name in NAMES:
        data.add_segment(name, ready=True)
    assert host.push(data.path, NAMES[0]).returncode == 0
    both = {"PGKEEP_MIRROR_SECOND_REPO": f"file://{mirror}"}
    for name in NAMES[1:]:
        assert host.push(data.path, name, env=both).returncode == 0
        assert list(mirror.rglob(name)), name


def test_a_repository_that_cannot_be_asked_is_no_success(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    age_records(host)
    data.put("postmaster.pid", "1\n/data\n1\n5432\n/tmp\n\n  1 2\nstopping\n")
    host.repository_path.rename(host.root / "away")
    assert host.push(data.path, NAMES[1]).returncode == 46


def test_trouble_ahead_is_told_only_when_the_file_is_asked_for(
    host: Host, data: DataDirectory
) -> None:
    data.add_segment(NAMES[0], ready=True)
    data.add_file(NAMES[1], b"not a segment", ready=True)
    (data.path / f"pg_wal/archive_status/{NAMES[2]}.ready").touch()
    content = data.add_segment(NAMES[3], ready=True)
    done = host.push(data.path, NAMES[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert host.wal_objects() == [NAMES[0], NAMES[3]]
    assert host.stored(data.path, NAMES[3]) == content
    assert host.push(data.path, NAMES[1]).returncode == 32


def test_a_state_directory_that_fails_fails_no_push(host: Host, data: DataDirectory) -> None:
    contents = {name: data.add_segment(name, ready=True) for name in NAMES}
    (host.state / "ahead").write_text("not a directory")
    for name, content in contents.items():
        done = host.push(data.path, name)
        assert (done.returncode, done.stderr) == (0, "")
        assert host.stored(data.path, name) == content


def test_records_go_when_the_server_has_its_answer(
    host: Host, data: DataDirectory, waiting: dict[str, bytes]
) -> None:
    assert records_of(host) == set(NAMES[1:])
    status = data.path / "pg_wal/archive_status"
    for name in NAMES[:4]:
        (status / f"{name}.ready").rename(status / f"{name}.done")
    extra = "000000010000000000000010"
    data.add_segment(extra, ready=True)
    assert host.push(data.path, extra).returncode == 0
    assert records_of(host) == set(NAMES[4:])


def test_the_server_s_own_order(data: DataDirectory) -> None:
    for name in ("000000020000000000000003", NAMES[1], "00000002.history", NAMES[0]):
        data.add_file(name, b"", ready=True)
    (data.path / f"pg_wal/archive_status/{NAMES[4]}.done").touch()
    expected = ["00000002.history", NAMES[0], NAMES[1], "000000020000000000000003"]
    assert ready_names(str(data.path)) == expected


def test_work_ahead_ends_with_its_time_whatever_the_store_does(
    data: DataDirectory, tmp_path: Path
) -> None:
    for name in NAMES:
        data.add_segment(name)
    hanging = threading.Event()
    started = time.monotonic()
    done = push_ahead(
        NAMES,
        lambda source: hanging.wait(30),
        pgdata=str(data.path),
        records=AheadRecords(tmp_path),
        segment_size=1 << 20,
        elapsed=lambda: time.monotonic() - started,
        first_alone=False,
        limits=AheadLimits(begin_seconds=0.2, end_seconds=0.5),
    )
    assert time.monotonic() - started < 3
    assert (done, list(tmp_path.iterdir())) == (0, [])
    hanging.set()


def test_a_shutdown_ends_work_ahead(data: DataDirectory, tmp_path: Path) -> None:
    for name in NAMES:
        data.add_segment(name)
    pushed: list[str] = []
    done = push_ahead(
        NAMES,
        lambda source: pushed.append(source.name.name),
        pgdata=str(data.path),
        records=AheadRecords(tmp_path),
        segment_size=1 << 20,
        elapsed=lambda: 0.0,
        first_alone=False,
        stop=lambda: True,
    )
    assert (done, pushed) == (0, [])


@pytest.mark.parametrize("shared", [0, 1])
def test_nothing_of_a_second_server_is_stored_beyond_where_it_meets_the_first(
    host: Host, data: DataDirectory, shared: int
) -> None:
    """Two standbys were promoted to one timeline, and have its history in common, or a segment,
    too. What the second had stored ahead the first would meet, and nobody would archive any
    more."""
    history = "00000002.history"
    data.add_file(history, b"1\t0/100000\tno recovery target specified\n")
    theirs = names(6, timeline=2)
    for name in theirs[: shared + 1]:
        data.add_segment(name, fill=b"\0")
        assert host.push(data.path, name).returncode == 0

    for number, name in enumerate(theirs):
        data.add_segment(name, fill=b"\0" if number < shared else b"b", ready=True)
    asked = theirs[0] if shared else history
    assert host.push(data.path, asked).returncode == 0
    assert host.wal_objects() == [history, *theirs[: shared + 1]]
    assert host.push(data.path, theirs[shared]).returncode == 31


def test_a_record_exists_only_after_the_upload(data: DataDirectory, tmp_path: Path) -> None:
    def push(source: WalSource) -> None:
        assert not (tmp_path / source.name.name).exists()
        if source.name.name == NAMES[1]:
            raise StoreUnavailable("down")

    for name in NAMES[:3]:
        data.add_segment(name)
    done = push_ahead(
        NAMES[:3],
        push,
        pgdata=str(data.path),
        records=AheadRecords(tmp_path),
        segment_size=1 << 20,
        elapsed=lambda: 0.0,
        first_alone=False,
    )
    assert done == 2
    assert {path.name for path in tmp_path.iterdir()} == {NAMES[0], NAMES[2]}


def test_every_part_of_a_record_must_match(tmp_path: Path) -> None:
    records = AheadRecords(tmp_path)
    mark = FileMark(FIRST, 1 << 20, 1, 2, 3)
    records.note(mark)
    assert records.has(mark)
    for other in (
        mark._replace(size=99),
        mark._replace(mtime_ns=99),
        mark._replace(ctime_ns=99),
        mark._replace(inode=99),
    ):
        assert not records.has(other)
    (tmp_path / FIRST).write_bytes(b"")
    assert not records.has(mark)
    (tmp_path / FIRST).write_bytes(b"[1")
    assert not records.has(mark)


def records_of(host: Host) -> set[str]:
    return {path.name for path in (host.state / "ahead").rglob("*") if path.is_file()}
