"""wal-fetch: recovery believes its exit code, so "absent" is said only when it is so.

Invariants 5, 6, 7, 15, 17.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.archive.cluster import LocalCluster
from pgkeep.archive.fetch import FetchSource, PlannedWalMissing, fetch_file
from pgkeep.errors import DamagedObject, StoreDenied, StoreUnavailable, WalNotFound
from pgkeep.repository.identity import Repository, make_keyring, read_identity
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal_plan import WalPlan
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from tests.archive.kit import FIRST, DataDirectory, Host, names

SECOND = "000000010000000000000002"


@pytest.fixture
def content(host: Host, data: DataDirectory) -> bytes:
    """The content of FIRST, which is in the repository."""
    content = data.add_segment(FIRST)
    assert host.push(data.path, FIRST).returncode == 0
    return content


# -- absent --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SECOND, "00000002.history", f"{FIRST}.partial"])
def test_a_file_that_is_positively_absent_is_1_and_quiet(
    host: Host, data: DataDirectory, content: bytes, name: str
) -> None:
    done = host.fetch(data.path, name)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert data.fetched() is None
    assert data.leftovers() == []
    told = host.fetch(data.path, name, "-v")
    assert told.returncode == 1
    assert f"{name} is not in the repository" in told.stderr


def test_a_mirror_that_was_never_made_is_in_nobodys_way(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    """It is in the settings already, and init or copy has not run."""
    place = host.root / "mirror"
    (place / "something").mkdir(parents=True)
    (place / "something" / "else").touch()
    host.give_away()
    settings = {"PGKEEP_MIRROR_SECOND_REPO": f"file://{place}"}
    assert host.fetch(data.path, FIRST, env=settings).returncode == 0
    assert data.fetched() == content
    assert host.fetch(data.path, SECOND, env=settings).returncode == 1
    # One that is silent may have it.
    place.rename(host.root / "away")
    done = host.fetch(data.path, SECOND, "--retry-seconds", "1", env=settings)
    assert done.returncode == 200


def test_a_file_that_the_plan_names_and_the_store_lacks_stops_the_server(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    plan = ("--plan", f"{FIRST}-000000010000000000000003,00000002.history")
    for name in (SECOND, "00000002.history"):
        done = host.fetch(data.path, name, *plan, "--retry-seconds", "1")
        assert done.returncode == 200
        assert f"{name} is not in the repository, and this recovery needs it" in done.stderr
    # What the plan does not name may be absent, and what is there is served.
    assert host.fetch(data.path, "000000010000000000000004", *plan).returncode == 1
    assert host.fetch(data.path, FIRST, *plan).returncode == 0


def test_a_planned_file_that_is_brought_back_meanwhile_is_served(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    path = host.object_path(data.path, FIRST)
    path.rename(host.root / "kept")
    process = start_fetch(host, data, "--plan", FIRST)
    assert is_running_after(process, 1)
    (host.root / "kept").rename(path)
    assert process.wait(20) == 0
    process.communicate()
    assert data.fetched() == content


def test_a_segment_of_a_branch_that_was_left_is_absent_though_it_is_there(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    later = data.add_segment(SECOND)
    assert host.push(data.path, SECOND).returncode == 0
    plan = f"{FIRST},00000002.history,000000020000000000000001-000000020000000000000003"
    done = host.fetch(data.path, SECOND, "--plan", plan, "-v")
    assert done.returncode == 1
    assert "does not lie on the way" in done.stderr
    assert data.fetched() is None
    assert host.fetch(data.path, FIRST, "--plan", plan).returncode == 0
    assert host.fetch(data.path, SECOND).returncode == 0
    assert data.fetched() == later


def test_absent_is_never_said_of_the_wrong_place(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    # A cluster name that nobody registered has no WAL at all, and that proves nothing.
    host.configure(cluster="mian")
    done = host.fetch(data.path, SECOND)
    assert done.returncode == 200
    assert "'mian' is not known" in done.stderr
    host.configure()
    stranger = DataDirectory.make()
    assert host.fetch(stranger.path, SECOND).returncode == 200


# -- a store that fails ----------------------------------------------------------------------------


def test_a_repository_that_is_not_there_stops_the_server_after_retries(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    host.repository_path.rename(host.root / "away")
    started = time.monotonic()
    done = host.fetch(data.path, SECOND, "--retry-seconds", "3")
    assert done.returncode == 200
    assert 2.5 < time.monotonic() - started < 8
    assert data.fetched() is None


def test_an_empty_directory_in_its_place_is_no_empty_archive(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    host.repository_path.rename(host.root / "away")
    host.repository_path.mkdir()
    host.give_away()
    assert host.fetch(data.path, SECOND, "--retry-seconds", "1").returncode == 200
    (host.repository_path / "something").mkdir()
    host.give_away()
    assert host.fetch(data.path, SECOND, "--retry-seconds", "1").returncode == 200


def test_without_a_limit_of_its_own_it_tries_for_five_minutes(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    from pgkeep.cli import wal_fetch

    assert wal_fetch.RETRY_SECONDS == 300
    host.repository_path.rename(host.root / "away")
    process = start_fetch(host, data)
    assert is_running_after(process, 11)
    (host.root / "away").rename(host.repository_path)
    assert process.wait(20) == 0
    process.communicate()


@pytest.mark.parametrize("where", ["header", "key", "frame", "trailer", "cut off", "empty"])
def test_a_damaged_object_stops_the_server_and_leaves_nothing(any_host: Host, where: str) -> None:
    data = DataDirectory.make(segment_mib=16)
    any_host.register(data.path)
    data.add_segment(FIRST)
    assert any_host.push(data.path, FIRST).returncode == 0
    path = any_host.object_path(data.path, FIRST)
    whole = bytearray(path.read_bytes())
    at = {"header": 60, "key": 500, "frame": len(whole) // 2, "trailer": len(whole) - 40}
    if where == "cut off":
        del whole[-1000:]
    elif where == "empty":
        whole.clear()
    else:
        whole[at[where]] ^= 1
    path.chmod(0o600)
    path.write_bytes(whole)

    done = any_host.fetch(data.path, FIRST)

    assert done.returncode == 200
    assert data.fetched() is None
    assert data.leftovers() == []


def test_an_object_under_another_name_than_its_own_is_not_served(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    path = host.object_path(data.path, FIRST)
    shutil.copy(path, path.with_name(SECOND))
    host.give_away()
    done = host.fetch(data.path, SECOND)
    assert done.returncode == 200
    assert data.fetched() is None


def test_a_segment_of_another_system_is_not_served(any_host: Host) -> None:
    """Whoever put it there: PostgreSQL itself would take it for the end of the archive."""
    data, stranger = DataDirectory.make(), DataDirectory.make()
    any_host.register(data.path)
    any_host.register(stranger.path, cluster="other")
    stranger.add_segment(FIRST)
    any_host.configure(cluster="other")
    assert any_host.push(stranger.path, FIRST).returncode == 0
    path = any_host.object_path(data.path, FIRST)
    path.parent.mkdir(parents=True)
    foreign = any_host.layout(stranger.path, "other").wal_file(FIRST)
    shutil.copy(any_host.repository_path / foreign, path)
    any_host.give_away()
    any_host.configure()
    done = any_host.fetch(data.path, FIRST)
    assert done.returncode == 200
    assert data.fetched() is None
    assert data.leftovers() == []


def test_a_failing_store_is_never_an_absent_file(
    host: Host, data: DataDirectory, content: bytes, tmp_path: Path
) -> None:
    for failure, expected in (
        (Failure.UNAVAILABLE, StoreUnavailable),
        (Failure.DENIED, StoreDenied),
        (Failure.TRUNCATED, DamagedObject),
    ):
        store = FaultyStore(host.store, [Fault(failure, method="get", key="*/wal/*", times=None)])
        with pytest.raises(expected):
            fetch_file(FIRST, str(tmp_path / "x"), source_of(host, data, store))
        assert list(tmp_path.iterdir()) == []


def test_bytes_damaged_on_their_way_are_read_again(
    host: Host, data: DataDirectory, content: bytes, tmp_path: Path
) -> None:
    store = FaultyStore(host.store, [Fault(Failure.TRUNCATED, method="get", key="*/wal/*")])
    fetch_file(FIRST, str(tmp_path / "x"), source_of(host, data, store))
    assert (tmp_path / "x").read_bytes() == content


def test_a_store_that_loses_a_planned_file_is_not_believed(
    host: Host, data: DataDirectory, content: bytes, tmp_path: Path
) -> None:
    store = FaultyStore(host.store, [Fault(Failure.ABSENT, method="get", key="*/wal/*")])
    source = source_of(host, data, store)
    with pytest.raises(PlannedWalMissing):
        fetch_file(FIRST, str(tmp_path / "x"), source, plan=WalPlan.parse(FIRST))
    fetch_file(FIRST, str(tmp_path / "x"), source, plan=WalPlan.parse(FIRST))


def test_absent_needs_a_registered_system(host: Host, data: DataDirectory, content: bytes) -> None:
    store = FaultyStore(
        host.store, [Fault(Failure.UNAVAILABLE, method="list", key="main/systems/", times=1)]
    )
    source = source_of(host, data, store)
    with pytest.raises(StoreUnavailable):
        fetch_file(SECOND, "/nowhere", source)
    with pytest.raises(WalNotFound):
        fetch_file(SECOND, "/nowhere", source)


# -- a standby -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["absent", "planned", "away", "damaged", "settings", "target"])
def test_on_a_standby_any_failure_is_1_within_five_seconds(
    host: Host, data: DataDirectory, content: bytes, trouble: str
) -> None:
    data.put("standby.signal")
    name, env, target = FIRST, {}, "pg_wal/RECOVERYXLOG"
    more: tuple[str, ...] = ("-v",)
    if trouble in ("absent", "planned"):
        name = SECOND
        more = ("-v", "--plan", SECOND) if trouble == "planned" else ("-v",)
    elif trouble == "away":
        host.repository_path.rename(host.root / "away")
    elif trouble == "damaged":
        path = host.object_path(data.path, FIRST)
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
    elif trouble == "settings":
        env = {"PGKEEP_UNKNOWN": "1"}
    elif trouble == "target":
        target = "nowhere/RECOVERYXLOG"
    started = time.monotonic()
    done = host.fetch(data.path, name, *more, env=env, target=target)
    assert done.returncode == 1
    assert time.monotonic() - started < 5.5
    assert done.stderr
    assert data.fetched() is None


def test_on_a_standby_a_file_that_is_there_is_served(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    data.put("standby.signal")
    assert host.fetch(data.path, FIRST).returncode == 0
    assert data.fetched() == content


def test_on_a_standby_a_store_that_hangs_is_left(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    # A FIFO instead of the repository's record: whoever opens it waits for ever.
    data.put("standby.signal")
    config = host.root / "hanging.toml"
    os.mkfifo(config)
    host.give_away()
    started = time.monotonic()
    process = host.start(
        "wal-fetch", FIRST, "pg_wal/RECOVERYXLOG", "--config", str(config), cwd=data.path
    )
    assert process.wait(20) == 1
    assert "does not answer" in process.communicate()[1]
    assert time.monotonic() - started < 5.5


def test_the_end_of_a_promotion_is_not_held_up_by_a_store_that_is_away(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    """The server has removed standby.signal, and asks for the history of its old timeline."""
    host.repository_path.rename(host.root / "away")
    started = time.monotonic()
    assert host.fetch(data.path, "00000001.history").returncode == 1
    data.add_file("00000002.history", b"1\t0/2000000\tx\n")
    assert host.fetch(data.path, "00000002.history").returncode == 1
    assert time.monotonic() - started < 7
    # Not so where the server has no such file itself, or still recovers.
    more = ("--retry-seconds", "1")
    assert host.fetch(data.path, "00000003.history", *more).returncode == 200
    data.put("recovery.signal")
    assert host.fetch(data.path, "00000002.history", *more).returncode == 200


# -- where it is written ---------------------------------------------------------------------------


def test_a_target_that_cannot_be_written_stops_the_server(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    done = host.fetch(data.path, FIRST, target="nowhere/RECOVERYXLOG")
    assert done.returncode == 200
    assert "nowhere/RECOVERYXLOG could not be written" in done.stderr


@pytest.fixture
def small_disk(data: DataDirectory) -> Iterator[Path]:
    """A file system of 512 KiB below the data directory."""
    path = data.path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0777", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs root that may mount a tmpfs")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_stops_the_server_and_is_left_as_it_was(
    host: Host, data: DataDirectory, content: bytes, small_disk: Path
) -> None:
    done = host.fetch(data.path, FIRST, target="small/RECOVERYXLOG")
    assert done.returncode == 200
    assert "No space left" in done.stderr
    assert list(small_disk.iterdir()) == []


def test_what_a_killed_predecessor_left_is_removed(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    data.add_file("RECOVERYXLOG.pgkeep-4711-0", b"half")
    data.add_file("RECOVERYXLOG", b"old")
    assert host.fetch(data.path, FIRST).returncode == 0
    assert data.fetched() == content
    assert data.leftovers() == []


def test_a_state_directory_that_cannot_be_used_does_not_stop_recovery(
    host: Host, data: DataDirectory, content: bytes
) -> None:
    host.configure(state="/proc/nowhere")
    data.put("postmaster.pid", "1\n")
    data.put("recovery.signal")
    assert host.fetch(data.path, FIRST).returncode == 0
    assert data.fetched() == content


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (FIRST,),
        (FIRST, "x", "y"),
        ("postgresql.conf", "x"),
        (FIRST, "x", "--plan", "nonsense"),
        (FIRST, "x", "--retry-seconds", "soon"),
    ],
)
def test_a_wrong_command_line_stops_the_server(
    host: Host, data: DataDirectory, arguments: tuple[str, ...]
) -> None:
    done = host.run("wal-fetch", *arguments, cwd=data.path)
    assert done.returncode == 200
    assert done.stderr


def test_signals_keep_their_default_effect(host: Host, data: DataDirectory) -> None:
    import signal

    host.repository_path.rename(host.root / "away")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        data.add_segment(FIRST)
        for process in (
            start_fetch(host, data),
            host.start("wal-push", f"pg_wal/{FIRST}", cwd=data.path),
        ):
            assert is_running_after(process, 0.7)
            process.send_signal(number)
            assert process.wait(5) == -number
            process.communicate()


def test_names_go_in_order(host: Host, data: DataDirectory) -> None:
    contents = {name: data.add_segment(name) for name in names(3)}
    for name in contents:
        assert host.push(data.path, name).returncode == 0
    for name, content in contents.items():
        assert host.fetch(data.path, name).returncode == 0
        assert data.fetched() == content


def start_fetch(host: Host, data: DataDirectory, *more: str) -> subprocess.Popen[str]:
    return host.start("wal-fetch", FIRST, "pg_wal/RECOVERYXLOG", *more, cwd=data.path)


def is_running_after(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def source_of(host: Host, data: DataDirectory, store: FaultyStore) -> FetchSource:
    from pgkeep.repository.identity import Unlock
    from pgkeep.seal.age import read_identities

    identity = read_identity(host.store)
    unlock = Unlock(identities=read_identities(host.identity_file.read_text()))
    repository = Repository(store, identity, make_keyring(identity, unlock=unlock))
    control = data.control
    cluster = LocalCluster(str(data.path), control.system_identifier, control.wal_segment_size)
    return FetchSource(repository, cluster, Layout("main", control.system_identifier))
