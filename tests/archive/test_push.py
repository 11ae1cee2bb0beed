"""wal-push: 0 is a promise about durable bytes, and everything else says what is wrong.

Invariants 1, 4, 15, 18, 22, 24, 26.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pgkeep.archive.source import WalSource
from pgkeep.errors import ArchiveError, ConfigError, ForeignWal, WalConflict
from tests.archive.kit import FIRST, MIB, DataDirectory, Host
from tests.server_user import server_user

LEGAL_SIZES_MIB = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


def test_what_was_pushed_comes_back_byte_for_byte(any_host: Host) -> None:
    data = DataDirectory.make(segment_mib=16)
    any_host.register(data.path)
    content = data.add_segment(FIRST)

    done = any_host.push(data.path, FIRST)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    header, stored = any_host.stored_with_header(data.path, FIRST)
    assert stored == content
    assert (header.kind, header.size, header.host) == ("segment", 16 * MIB, os.uname().nodename)
    assert any_host.fetch(data.path, FIRST).returncode == 0
    assert data.fetched() == content


def test_a_sealed_segment_shows_nothing_of_its_content(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST, fill=b"the secret of the house ")
    # The database host has no identity.
    host.configure(identity=host.root / "absent")
    assert host.push(data.path, FIRST).returncode == 0
    assert b"secret of the house" not in host.object_path(data.path, FIRST).read_bytes()
    unreadable = host.fetch(data.path, FIRST)
    assert unreadable.returncode == 200


def test_without_an_identity_a_sealed_segment_is_not_fetched(
    host: Host, data: DataDirectory
) -> None:
    data.add_segment(FIRST)
    assert host.push(data.path, FIRST).returncode == 0
    host.config.write_text(f'repo = "{host.url}"\nstate = "{host.state}"\n')
    done = host.fetch(data.path, FIRST)
    assert done.returncode == 200
    assert "PGKEEP_IDENTITY" in done.stderr
    assert data.fetched() is None


@pytest.mark.parametrize("segment_mib", LEGAL_SIZES_MIB)
def test_every_legal_segment_size_goes_in_and_out(segment_mib: int) -> None:
    host = Host(new_root(), sealed=segment_mib < 512)
    data = DataDirectory.make(segment_mib=segment_mib)
    host.register(data.path)
    # The last segment number of a log file differs with the size.
    name = f"0000000100000003{0x1000 // segment_mib - 1:08X}"
    content = data.add_segment(name)
    try:
        assert host.push(data.path, name).returncode == 0
        assert host.fetch(data.path, name).returncode == 0
        assert data.fetched() == content
    finally:
        shutil.rmtree(host.root)
        shutil.rmtree(data.path)


def test_a_second_push_of_the_same_content_is_a_success(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST)
    assert host.push(data.path, FIRST).returncode == 0
    before = host.object_path(data.path, FIRST).read_bytes()
    assert host.push(data.path, FIRST).returncode == 0
    assert host.object_path(data.path, FIRST).read_bytes() == before


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_an_object_whose_end_is_missing_is_not_the_file(
    host: Host, data: DataDirectory, kept: float
) -> None:
    """Its header names the right content all the same: the server would recycle the only copy."""
    data.add_segment(FIRST, fill=os.urandom(MIB))
    assert host.push(data.path, FIRST).returncode == 0
    path = host.object_path(data.path, FIRST)
    os.truncate(path, int(path.stat().st_size * kept))
    forget_pushes(host)
    done = host.push(data.path, FIRST)
    assert done.returncode == 64
    assert FIRST in done.stderr
    path.unlink()
    assert host.push(data.path, FIRST).returncode == 0
    assert host.stored(data.path, FIRST) == (data.path / "pg_wal" / FIRST).read_bytes()


def forget_pushes(host: Host) -> None:
    """What was pushed ahead is asked of the store again."""
    shutil.rmtree(host.state / "ahead", ignore_errors=True)


def test_other_content_under_the_same_name_is_refused_and_nothing_is_overwritten(
    any_host: Host,
) -> None:
    data = DataDirectory.make()
    any_host.register(data.path)
    first = data.add_segment(FIRST)
    assert any_host.push(data.path, FIRST).returncode == 0
    data.add_segment(FIRST)

    done = any_host.push(data.path, FIRST)

    assert done.returncode == WalConflict.exit_code == 31
    assert f"{FIRST} is already in the repository with other content" in done.stderr
    assert f"pushed first by {os.uname().nodename} at 20" in done.stderr
    assert any_host.stored(data.path, FIRST) == first


def test_a_segment_of_another_cluster_is_refused(host: Host, data: DataDirectory) -> None:
    stranger = DataDirectory.make()
    data.add_file(FIRST, stranger.segment_bytes(FIRST))
    done = host.push(data.path, FIRST)
    assert done.returncode == ForeignWal.exit_code == 32
    assert str(stranger.control.system_identifier) in done.stderr
    assert host.wal_objects() == []


@pytest.mark.parametrize(
    "damage", ["wrong position", "wrong name", "cut short", "zeros", "another segment size"]
)
def test_what_is_not_what_its_name_says_is_refused(
    host: Host, data: DataDirectory, damage: str
) -> None:
    good = data.segment_bytes(FIRST)
    content = {
        "wrong position": data.segment_bytes("000000010000000000000002"),
        "wrong name": data.segment_bytes("000000020000000000000001"),
        "cut short": good[:-1],
        "zeros": bytes(MIB),
        "another segment size": DataDirectory.make(segment_mib=2).segment_bytes(FIRST),
    }[damage]
    data.add_file(FIRST, content)
    assert host.push(data.path, FIRST).returncode == 32
    data.add_file(f"{FIRST}.partial", content)
    assert host.push(data.path, f"{FIRST}.partial").returncode == 32
    assert host.wal_objects() == []


def test_a_cluster_created_anew_under_a_known_name_is_refused_until_it_is_meant(
    host: Host, data: DataDirectory
) -> None:
    anew = DataDirectory.make()
    content = anew.add_segment(FIRST)
    done = host.push(anew.path, FIRST)
    assert done.returncode == 63
    assert "pgkeep init --new-system" in done.stderr
    host.register(anew.path, new_system=True)
    assert host.push(anew.path, FIRST).returncode == 0
    assert host.stored(anew.path, FIRST) == content


def test_two_clusters_never_mix(host: Host, data: DataDirectory) -> None:
    other = DataDirectory.make()
    host.register(other.path, cluster="other")
    one, two = data.add_segment(FIRST), other.add_segment(FIRST)
    assert host.push(data.path, FIRST).returncode == 0
    host.configure(cluster="other")
    assert host.push(other.path, FIRST).returncode == 0
    assert host.fetch(other.path, FIRST).returncode == 0
    assert other.fetched() == two
    assert host.stored(data.path, FIRST) == one


def test_a_restored_copy_archives_nothing(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST)
    mark = data.put("pgkeep.copy", "restored")
    done = host.push(data.path, FIRST)
    assert done.returncode == 33
    assert f"rm {mark}" in done.stderr
    assert host.wal_objects() == []
    mark.unlink()
    assert host.push(data.path, FIRST).returncode == 0


def test_history_backup_and_partial_files_are_kept_too(host: Host, data: DataDirectory) -> None:
    files = {
        "00000002.history": b"1\t0/2000000\tno recovery target specified\n",
        f"{FIRST}.00000028.backup": b"START WAL LOCATION: 0/1000028 (file ...)\n",
        f"{FIRST}.partial": data.segment_bytes(FIRST),
    }
    for name, content in files.items():
        data.add_file(name, content)
        assert host.push(data.path, name).returncode == 0
        assert host.push(data.path, name).returncode == 0
        assert host.stored(data.path, name) == content
        assert host.fetch(data.path, name).returncode == 0
        assert data.fetched() == content


SECOND = "000000020000000000000002"
HISTORY = b"1\t0/100000\tbefore 2026-11-20 14:03:07+00\n"


def test_history_goes_before_the_first_segment_of_a_timeline_that_began_unarchived(
    host: Host, data: DataDirectory
) -> None:
    """A restored copy promotes with archiving off: the server never asks for its history file."""
    data.add_file("00000002.history", HISTORY)
    data.add_segment(SECOND)
    assert host.push(data.path, SECOND).returncode == 0
    assert host.stored(data.path, "00000002.history") == HISTORY


def test_segment_is_refused_when_the_repository_has_another_history_of_its_timeline(
    host: Host, data: DataDirectory
) -> None:
    data.add_file("00000002.history", HISTORY)
    assert host.push(data.path, "00000002.history").returncode == 0
    data.add_file("00000002.history", HISTORY.replace(b"before", b"after"))
    data.add_segment(SECOND)
    assert host.push(data.path, SECOND).returncode == 31
    assert SECOND not in host.wal_objects()


def test_segment_whose_history_is_not_here_is_kept(host: Host, data: DataDirectory) -> None:
    content = data.add_segment(SECOND)
    assert host.push(data.path, SECOND).returncode == 0
    assert host.stored(data.path, SECOND) == content


def test_a_history_file_that_no_server_could_read_is_refused(
    host: Host, data: DataDirectory
) -> None:
    data.add_file("00000003.history", b"2\t0/3000000\tx\n1\t0/2000000\tx\n")
    done = host.push(data.path, "00000003.history")
    assert done.returncode == 14
    assert host.wal_objects() == []


@pytest.mark.parametrize("name", ["postgresql.conf", "00000001000000000000000g", "xlogtemp.123"])
def test_other_files_are_refused(host: Host, data: DataDirectory, name: str) -> None:
    data.add_file(name, b"x")
    assert host.push(data.path, name).returncode == 2


def test_the_path_may_be_absolute_and_the_place_any(host: Host, data: DataDirectory) -> None:
    content = data.add_segment(FIRST)
    path = str(data.path / "pg_wal" / FIRST)
    assert host.run("wal-push", path, cwd=Path("/")).returncode == 0
    assert host.stored(data.path, FIRST) == content


def test_a_file_outside_any_data_directory_is_refused(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST)
    elsewhere = host.root / FIRST
    shutil.move(data.path / "pg_wal" / FIRST, elsewhere)
    assert host.run("wal-push", str(elsewhere), cwd=Path("/")).returncode == 11
    more = ("--pgdata", str(data.path))
    assert host.run("wal-push", str(elsewhere), *more, cwd=Path("/")).returncode == 0


def test_a_repository_that_is_not_there_ends_the_push_after_ten_seconds(
    host: Host, data: DataDirectory
) -> None:
    data.add_segment(FIRST)
    host.repository_path.rename(host.root / "away")
    started = time.monotonic()
    done = host.push(data.path, FIRST)
    took = time.monotonic() - started
    assert done.returncode == 46
    assert 8 < took < 14
    assert str(host.repository_path) in done.stderr


def test_a_repository_that_comes_back_meanwhile_gets_the_segment(
    host: Host, data: DataDirectory
) -> None:
    content = data.add_segment(FIRST)
    host.repository_path.rename(host.root / "away")
    process = host.start("wal-push", f"pg_wal/{FIRST}", cwd=data.path)
    with pytest.raises(TimeoutError):
        wait_for_end(process, 1)
    (host.root / "away").rename(host.repository_path)
    assert process.wait(15) == 0
    process.communicate()
    assert host.stored(data.path, FIRST) == content


def test_a_server_that_shuts_down_is_not_kept_waiting(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST)
    host.repository_path.rename(host.root / "away")
    process = host.start("wal-push", f"pg_wal/{FIRST}", cwd=data.path)
    with pytest.raises(TimeoutError):
        wait_for_end(process, 1)
    data.put("postmaster.pid", "1\n/data\n1\n5432\n/tmp\n\n  1 2\nstopping\n")
    started = time.monotonic()
    assert process.wait(5) == 46
    process.communicate()
    assert time.monotonic() - started < 2


@pytest.mark.skipif(not server_user().is_other, reason="needs root to take a right away")
def test_a_denied_repository_is_told_at_once(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST)
    os.chown(host.repository_path, 0, 0)
    host.repository_path.chmod(0)
    done = host.push(data.path, FIRST)
    assert done.returncode == 44
    assert data.fetched() is None
    assert host.fetch(data.path, FIRST).returncode == 200


def test_a_repository_put_in_the_place_of_the_known_one_gets_nothing(
    host: Host, data: DataDirectory
) -> None:
    data.add_segment(FIRST)
    assert host.push(data.path, FIRST).returncode == 0
    host.repository_path.rename(host.root / "away")
    other = Host(new_root())
    other.register(data.path)
    other.repository_path.rename(host.repository_path)
    second = "000000010000000000000002"
    data.add_segment(second)
    done = host.push(data.path, second)
    assert done.returncode == 53
    assert host.wal_objects() == []


@pytest.mark.parametrize(
    "arguments", [(), ("pg_wal/x", "y"), ("--wrong", "pg_wal/x"), ("pg_wal/x", "--config")]
)
def test_a_wrong_command_line_is_told(
    host: Host, data: DataDirectory, arguments: tuple[str, ...]
) -> None:
    done = host.run("wal-push", *arguments, cwd=data.path)
    assert done.returncode == 2
    assert "archive_command = 'pgkeep wal-push %p'" in done.stderr


def test_a_setting_that_is_wrong_is_told(host: Host, data: DataDirectory) -> None:
    data.add_segment(FIRST)
    done = host.push(data.path, FIRST, env={"PGKEEP_REPOS": "x"})
    assert done.returncode == ConfigError.exit_code
    assert "PGKEEP_REPO" in done.stderr


def test_a_file_that_changes_while_it_is_read_is_not_pushed(data: DataDirectory) -> None:
    data.add_segment(FIRST)
    path = data.path / "pg_wal" / FIRST
    with WalSource(str(path)) as source:
        with open(path, "ab") as file:
            file.write(b"more")
        with pytest.raises(ArchiveError, match="changed while it was read"):
            source.read()


def new_root() -> Path:
    from tests.servers import new_directory

    return new_directory()


def wait_for_end(process: object, seconds: float) -> None:
    import subprocess

    assert isinstance(process, subprocess.Popen)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
