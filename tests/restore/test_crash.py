"""A restore that is broken off leaves a directory that no server starts from, or a whole one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep.errors import LocalIOError
from pgkeep.progress import Silent
from pgkeep.restore import steps
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.run import plan_restore, run_restore
from tests.program import pgkeep_program
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import popen_as_server_user, run_as_server_user, server_user

pytestmark = pytest.mark.end_to_end
KILLS = 22


@pytest.fixture
def backed_up(site: Site) -> Site:
    """A site with a backup of some size, whose server is down."""
    site.server.psql("CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 300000) i")
    site.backup()
    site.server.psql("DELETE FROM t WHERE i % 7 = 0")
    site.server.wait_archived()
    site.server.stop()
    return site


def start_restore(site: Site, into: Path) -> subprocess.Popen[str]:
    return popen_as_server_user(
        [pgkeep_program(), "--config", site.config, "restore", "--into", into, "--wal", "copied"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_at_any_moment_it_does_no_harm(backed_up: Site) -> None:
    site = backed_up
    objects = [info.key for info in site.repository.store.list("")]
    began = time.monotonic()
    with start_restore(site, site.root / "whole") as process:
        wait_for_writing(process, site.root / "whole")
        writes = time.monotonic()
        output, _ = process.communicate()
    whole, writing = time.monotonic() - began, time.monotonic() - writes
    assert process.returncode == 0, output
    chance = random.Random(20261120)
    outcomes = {"absent": 0, "refused": 0, "whole": 0}
    for number in range(KILLS):
        into = site.root / f"killed {number}"
        with start_restore(site, into) as process:
            # Most kills shall hit the writing, however long Python takes to start.
            if number % 4:
                wait_for_writing(process, into)
                time.sleep(writing * chance.uniform(0, 1.02))
            else:
                time.sleep(whole * chance.random())
            process.send_signal(signal.SIGKILL)
            process.communicate()
        outcomes[judge(site, into)] += 1
        shutil.rmtree(into, ignore_errors=True)
    assert outcomes["refused"] >= KILLS // 3, outcomes
    # What a killed restore left in the repository is a pin, which dies by itself.
    left = {info.key for info in site.repository.store.list("")} - set(objects)
    assert all("/pins/" in key for key in left), left


def wait_for_writing(process: subprocess.Popen[str], into: Path) -> None:
    """Until the directory is there, or the command is over."""
    while process.poll() is None and not into.exists():
        time.sleep(0.002)


def judge(site: Site, into: Path) -> str:
    """What a directory is after a kill; AssertionError if it is anything dangerous."""
    if not into.exists():
        return "absent"
    if (into / "global" / "pg_control").exists():
        verify_backup(site.server.installation, into)
        return "whole"
    done = run_as_server_user([site.server.program("postgres"), "-D", into], check=False)
    assert done.returncode != 0, done.stdout + done.stderr
    plan = site.plan(into.name)
    assert plan.goes_on is any(into.iterdir())
    return "refused"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 24 MiB that the server's user may write to."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux can mount a small file system")
    place = Path("/tmp") / f"pgksmall{os.getpid()}"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "pgkeep-test", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        place.rmdir()
        pytest.skip("this machine does not let us mount a small file system")
    server_user().own(place)
    yield place
    subprocess.run(["umount", str(place)], check=True)
    place.rmdir()


def restore_into(site: Site, into: Path) -> None:
    plan = plan_restore(
        site.repository, site.layout, RestoreOptions(into), access=site.access, progress=Silent()
    )
    run_restore(site.repository, site.layout, plan, access=site.access, progress=Silent())


def test_too_little_room_is_said_before_anything_is_written(
    backed_up: Site, small_disk: Path
) -> None:
    with pytest.raises(LocalIOError, match="not enough room") as caught:
        restore_into(backed_up, small_disk / "back")
    assert caught.value.exit_code == 4
    assert not (small_disk / "back").exists()


@pytest.mark.majors(18)
def test_each_disk_is_asked_for_what_goes_there(site: Site, small_disk: Path) -> None:
    place = site.root / "fast"
    place.mkdir()
    site.server.psql(f"CREATE TABLESPACE fast LOCATION '{server_user().own(place)}'")
    rows = "SELECT i, md5(i::text) m FROM generate_series(1, 500000) i"
    site.server.psql(f"CREATE TABLE f TABLESPACE fast AS {rows}")
    site.backup()
    with pytest.raises(LocalIOError, match="not enough room") as caught:
        site.restore("back", tablespaces={"fast": str(small_disk / "fast")}, wal="copied")
    assert f"for {small_disk}/fast" in str(caught.value)
    assert not (site.root / "back").exists()
    # What goes to the other disk needs no room on the small one.
    site.server.psql("DROP TABLE f; CREATE TABLE g (i int) TABLESPACE fast")
    site.server.psql(f"CREATE TABLE h AS {rows}")
    site.backup()
    site.restore("back", tablespaces={"fast": str(small_disk / "fast")}, wal="copied")


def test_a_disk_that_fills_up_meanwhile_ends_it_and_no_server_starts(
    backed_up: Site, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "check_free", lambda *arguments, **options: None)
    with pytest.raises(LocalIOError, match="No space left") as caught:
        restore_into(backed_up, small_disk / "back")
    assert caught.value.exit_code == 4
    assert "Make room" in str(caught.value.remedy)
    assert not (small_disk / "back" / "global" / "pg_control").exists()


Change = Callable[[Site], Path]


def flip_a_byte(site: Site) -> Path:
    pack = max(site.repository_path.rglob("packs/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)
    return pack


def cut_off(site: Site) -> Path:
    pack = max(site.repository_path.rglob("packs/*/*"), key=lambda path: path.stat().st_size)
    os.truncate(pack, pack.stat().st_size // 3)
    return pack


@pytest.mark.parametrize("damage", [flip_a_byte, cut_off])
def test_damaged_packs_are_found_and_no_server_starts(backed_up: Site, damage: Change) -> None:
    from pgkeep.errors import DamagedObject

    damage(backed_up)
    with pytest.raises(DamagedObject) as caught:
        restore_into(backed_up, backed_up.root / "back")
    assert caught.value.exit_code == 64
    assert not (backed_up.root / "back" / "global" / "pg_control").exists()
