"""A restore over a directory ends as one into a new directory does, and writes what differs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.errors import DirectoryNotEmpty, RestoreError
from pgkeep.postgres.datadir import postmaster_running
from pgkeep.progress import Silent
from pgkeep.restore import reuse, target
from pgkeep.restore.destination import UNFINISHED_CONTROL
from pgkeep.restore.run import run_restore
from pgkeep.restore.unfinished import UNFINISHED_MARK
from tests.digest import assert_same_digest, cluster_digest
from tests.program import pgkeep_program
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import popen_as_server_user, run_as_server_user, server_user
from tests.servers import new_directory

pytestmark = pytest.mark.end_to_end
ROWS = 400_000
# What a restore writes of its own, with the moment in it.
_OF_THE_MOMENT = {"backup_manifest", "pgkeep.copy", "pgkeep.restore.toml", "postgresql.auto.conf"}


@pytest.fixture
def filled(site: Site) -> Site:
    """A site with a table of 30 MB, and a backup of it."""
    site.server.psql(
        f"CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, {ROWS}) i; "
        "CREATE INDEX ON t (i); VACUUM FREEZE t"
    )
    site.backup()
    return site


def content_of(into: Path) -> dict[str, tuple[int, bytes] | str]:
    """Mode and bytes of every file, and where links lead."""
    found: dict[str, tuple[int, bytes] | str] = {}
    for path in sorted(into.rglob("*")):
        name = str(path.relative_to(into))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = (path.stat().st_mode, b"")
        elif name.partition("/")[0] not in _OF_THE_MOMENT:
            found[name] = (path.stat().st_mode, path.read_bytes())
    return found


def assert_same_content(one: Path, other: Path) -> None:
    first, second = content_of(one), content_of(other)
    assert list(first) == list(second)
    assert [name for name, content in first.items() if content != second[name]] == []


def test_the_clusters_own_directory_goes_back_to_a_moment_in_place(filled: Site) -> None:
    server = filled.server
    server.psql(f"UPDATE t SET m = 'new' WHERE i % {ROWS // 4} = 0")
    before = cluster_digest(server)
    server.psql("SELECT pg_create_restore_point('the moment')")
    server.psql("DROP TABLE t; CREATE TABLE later AS SELECT 1")
    server.wait_archived()
    server.stop()
    report = filled.restore(
        os.path.relpath(server.pgdata, filled.root),
        target=target.at_name("the moment"),
        delta=True,
        continue_archiving=True,
        wal="copied",
    )
    verify_backup(server.installation, server.pgdata)
    assert report.plan.over
    server.start()
    server.wait_recovery_end()
    assert_same_digest(cluster_digest(server), before)
    server.wait_archived()
    assert filled.backup().head.timeline == 2


def test_only_what_differs_is_written_and_nothing_when_nothing_does(filled: Site) -> None:
    into = filled.root / "back"
    whole = filled.restore("back").written_bytes
    again = filled.restore("back", delta=True)
    verify_backup(filled.server.installation, into)
    # What every restore rewrites by itself.
    assert again.written_bytes < 100_000
    relation = max((into / "base").rglob("*"), key=lambda path: path.stat().st_size)
    with open(relation, "r+b") as file:
        file.seek(8192 * 700 + 100)
        file.write(b"flipped")
    once_more = filled.restore("back", delta=True)
    verify_backup(filled.server.installation, into)
    assert 8192 <= once_more.written_bytes < whole / 4


def spoil(into: Path, chance: random.Random) -> None:
    """What a directory may look like that was used, damaged and tampered with."""
    files = sorted(path for path in into.rglob("*") if path.is_file())
    outside = into.parent / "outside"
    outside.write_text("not to be touched")
    relations = [path for path in files if path.stat().st_size >= 8192]
    for path in chance.sample(relations, 12):
        size = path.stat().st_size
        match chance.randrange(6):
            case 0:
                os.truncate(path, chance.randrange(size))
            case 1:
                os.truncate(path, size + 8192 * chance.randrange(1, 9))
            case 2:
                with open(path, "r+b") as file:
                    for _ in range(5):
                        file.seek(chance.randrange(size))
                        file.write(b"\xff")
            case 3:
                path.unlink()
                path.symlink_to(outside)
            case 4:
                path.unlink()
                path.mkdir()
                (path / "below").write_text("x")
            case _:
                os.link(path, outside.with_name(f"link-{path.name}"))
                with open(path, "r+b") as file:
                    file.write(b"\0" * 100)
    chance.choice(relations).chmod(0o400)
    (into / "pg_wal" / "00000001000000000000FFFF").write_bytes(b"of another future")
    (into / "recovery.signal").touch()
    (into / "base" / "99999").mkdir()
    (into / "base" / "99999" / "1").write_text("of a database made later")
    (into / "loop").symlink_to("loop")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.majors(18)
def test_whatever_stands_there_it_ends_as_a_new_restore_does(filled: Site, seed: int) -> None:
    filled.server.psql("DELETE FROM t WHERE i % 3 = 0; VACUUM t")
    filled.backup()
    filled.restore("back")
    into, fresh = filled.root / "back", filled.root / "fresh"
    spoil(into, random.Random(seed))
    _own_all(filled.root)
    links = {path: path.read_bytes() for path in filled.root.glob("link-*")}
    filled.restore("back", delta=True)
    filled.restore("fresh")
    verify_backup(filled.server.installation, into)
    assert_same_content(into, fresh)
    assert (filled.root / "outside").read_text() == "not to be touched"
    assert {path: path.read_bytes() for path in links} == links


def test_zeros_of_the_backup_are_zeros_whatever_stood_in_their_place(filled: Site) -> None:
    server = filled.server
    server.psql("CREATE TABLE sparse (i int)")
    path = server.pgdata / server.psql("SELECT pg_relation_filepath('sparse')")
    with open(path, "r+b") as file:  # pages that were extended and never used, as after a crash
        file.truncate(64 * 8192)
    server_user().own(path)
    filled.backup()
    filled.restore("back")
    standing = filled.root / "back" / path.relative_to(server.pgdata)
    standing.write_bytes(os.urandom(64 * 8192))
    filled.restore("back", delta=True)
    assert standing.read_bytes() == bytes(64 * 8192)


def test_a_killed_restore_is_gone_on_with_from_wherever_it_was(filled: Site) -> None:
    into = filled.root / "killed"
    command: list[str | Path] = [pgkeep_program(), "--config", filled.config]
    command += ["restore", "--wal", "copied"]
    chance = random.Random(7)

    def run(seconds: float | None, *options: str) -> int:
        with popen_as_server_user([*command, *options, "--into", into], text=True) as process:
            if seconds is not None:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
            process.wait()
            return process.returncode

    began = time.monotonic()
    assert run(None) == 0
    whole = time.monotonic() - began
    shutil.rmtree(into)
    killed = 0
    options: list[str] = []
    for _ in range(12):
        killed += run(whole * chance.uniform(0.3, 1), *options) != 0
        if (into / "global" / "pg_control").exists():
            verify_backup(filled.server.installation, into)
            options = ["--delta"]
        elif into.exists():
            program = filled.server.program("postgres")
            assert run_as_server_user([program, "-D", into], check=False).returncode != 0
    assert killed >= 4
    assert run(None, *options) == 0
    verify_backup(filled.server.installation, into)
    filled.restore("fresh", wal="copied")
    assert_same_content(into, filled.root / "fresh")


@pytest.mark.majors(18)
def test_no_server_starts_from_it_once_anything_was_changed(
    filled: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = filled.root / "back"
    filled.restore("back")

    def stopped(*_: object) -> None:
        assert not (into / "global" / "pg_control").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reuse, "clear", stopped)
        with pytest.raises(KeyboardInterrupt):
            filled.restore("back", delta=True)
    filled.restore("back", delta=True)
    verify_backup(filled.server.installation, into)


@pytest.mark.majors(18)
def test_what_is_not_this_clusters_is_refused_and_left_as_it_is(
    make_site: Callable[..., Site], filled: Site
) -> None:
    other = make_site()
    other.server.stop()
    for place in (other.server.pgdata, new_directory("other")):
        (place / "precious").write_text("x")
        before = content_of(place)
        with pytest.raises(DirectoryNotEmpty, match="may change"):
            filled.plan(os.path.relpath(place, filled.root), delta=True)
        assert content_of(place) == before
    with pytest.raises(RestoreError, match="A server runs in"):
        filled.plan(os.path.relpath(filled.server.pgdata, filled.root), delta=True)


@pytest.mark.majors(18)
def test_a_server_that_was_started_since_the_plan_stops_the_restore(filled: Site) -> None:
    filled.restore("back", wal="copied")
    plan = filled.plan("back", delta=True, wal="copied")
    with filled.factory.adopt(filled.root / "back") as server:
        with pytest.raises(RestoreError, match="A server runs in"):
            run_restore(
                filled.repository, filled.layout, plan, access=filled.access, progress=Silent()
            )
        server.wait_recovery_end()
        assert server.psql("SELECT count(*) FROM t") == str(ROWS)


def test_tablespaces_and_wal_on_other_disks_stay_where_they_are(site: Site) -> None:
    place = server_user().own(_made(site.root / "fast"))
    site.server.psql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    site.server.psql("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 50000) i")
    oid = int(site.server.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'"))
    site.backup()
    site.server.psql("DELETE FROM f WHERE i % 2 = 0")
    site.server.wait_archived()
    site.server.stop()
    into = site.server.pgdata
    disk = server_user().own(_made(site.root / "disk")) / "wal"
    shutil.move(into / "pg_wal", disk)
    (into / "pg_wal").symlink_to(disk)
    (place / "another version").mkdir()
    report = site.restore(
        os.path.relpath(into, site.root), target=target.immediate(), delta=True, wal="copied"
    )
    assert [(space.oid, space.location) for space in report.plan.tablespaces] == [(oid, place)]
    assert (into / "pg_wal").readlink() == disk
    assert (place / "another version").is_dir()
    server = site.factory.adopt(into).start()
    server.wait_recovery_end()
    assert server.psql("SELECT count(*) FROM f") == "50000"


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _own_all(root: Path) -> None:
    user = server_user()
    if user.is_other:
        for path in root.rglob("*"):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)


@pytest.mark.majors(18)
@pytest.mark.parametrize("looks", [2, 3])
def test_a_server_that_starts_meanwhile_is_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Some time passes between the plan and the moment from which on none can start."""
    site.backup()
    server, look = site.server, postmaster_running
    server.psql("CREATE TABLE t AS SELECT 1 AS a")
    server.stop()
    seen = []

    def starts_late(into: Path) -> int | None:
        found = look(into)
        seen.append(found)
        if len(seen) == looks:
            server.start()
        return found

    monkeypatch.setattr(reuse, "postmaster_running", starts_late)
    with pytest.raises(RestoreError, match="A server runs in"):
        site.restore(os.path.relpath(server.pgdata, site.root), delta=True)
    assert server.psql("CHECKPOINT; SELECT a FROM t") == "1"
    assert not (server.pgdata / UNFINISHED_MARK).exists()
    assert not (server.pgdata / UNFINISHED_CONTROL).exists()
