"""``pgkeep verify`` as a person meets it, on golden repositories."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.errors import PgkeepError
from pgkeep.restore.target import immediate
from tests.cli.kit import Pgkeep
from tests.server_user import run_as_server_user, scrubbed_environment, server_user
from tests.test_golden import GOLDEN, Golden

SEALED = next(folder for folder in GOLDEN if folder.name.endswith("-age"))


@pytest.fixture
def golden() -> Iterator[Golden]:
    found = Golden(SEALED)
    for path in (found.root, *found.root.rglob("*")):
        server_user().own(path)
    yield found
    shutil.rmtree(found.root)


@pytest.fixture
def pgkeep(golden: Golden) -> Iterator[Pgkeep]:
    made = Pgkeep()
    made.environ["PGKEEP_REPO"] = f"file://{golden.root / 'repository'}"
    made.environ["PGKEEP_IDENTITY"] = golden.identity
    yield made
    shutil.rmtree(made.root)


def damage(golden: Golden) -> str:
    """Flip a bit in the pack of the first backup; its key."""
    backups = [min(golden.expected["backups"])]
    assert backups
    keys = [info.key for info in golden.store.list(golden.layout.packs)]
    largest = max(keys, key=lambda key: (golden.root / "repository" / key).stat().st_size)
    path = golden.root / "repository" / largest
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return largest


def test_list_says_what_was_proved(pgkeep: Pgkeep) -> None:
    assert all(one["checked"] is None for one in pgkeep.json("list")["backups"])
    pgkeep("verify", "--deep")
    assert {one["checked"]["level"] for one in pgkeep.json("list")["backups"]} == {"deep"}
    assert "deep, today" in pgkeep("list").stdout
    assert "deep, today" in pgkeep("show", "latest").stdout


def test_a_problem_is_an_exit_code_and_a_line(golden: Golden, pgkeep: Pgkeep) -> None:
    pgkeep("verify", "--deep")
    key = damage(golden)
    pgkeep("verify")  # it is there, with its size
    done = pgkeep("verify", "--scrub", code=68)
    (line,) = [line for line in done.stdout.splitlines() if key in line]
    assert min(golden.expected["backups"]) in line
    document = pgkeep.json("verify", "--deep", code=68)
    (found,) = document["checks"][0]["problems"]
    assert found["key"] == key
    pgkeep("verify", code=68)  # it is known, and read again
    results = {one["backup"]: one["checked"]["result"] for one in pgkeep.json("list")["backups"]}
    assert {name for name, result in results.items() if result == "bad"} == {*found["backups"]}
    assert "BROKEN, today" in pgkeep("list").stdout


def test_without_a_key_a_scrub_says_what_it_did_not_check(golden: Golden, pgkeep: Pgkeep) -> None:
    del pgkeep.environ["PGKEEP_IDENTITY"]
    assert "Not checked" in pgkeep("verify", "--scrub").stdout
    pgkeep("verify", code=51)
    pgkeep("verify", "--deep", code=51)
    damage(golden)
    pgkeep("verify", "--scrub", code=68)


def test_each_mirror_is_checked_by_itself(golden: Golden, pgkeep: Pgkeep) -> None:
    mirror = golden.root / "mirror"
    shutil.copytree(golden.root / "repository", mirror)
    for path in (mirror, *mirror.rglob("*")):
        server_user().own(path)
    pgkeep.environ["PGKEEP_MIRROR_SECOND_REPO"] = f"file://{mirror}"
    damage(golden)
    checks = pgkeep.json("verify", "--scrub", code=68)["checks"]
    assert [bool(one["problems"]) for one in checks] == [True, False]
    pgkeep("verify", "--scrub", "--only", "second")
    pgkeep("verify", "--only", "third", code=2)


def test_a_restore_of_what_verify_calls_broken_is_refused(golden: Golden, pgkeep: Pgkeep) -> None:
    damage(golden)
    broken = pgkeep.json("verify", "--scrub", code=68)["checks"][0]["problems"][0]["backups"]
    for backup in broken[:1]:
        into: Path = golden.root / "into"
        with pytest.raises(PgkeepError):
            golden.restore(into, backup=backup, target=immediate())
        assert not (into / "global" / "pg_control").exists()


def rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("level", [[], ["--scrub"], ["--deep"]], ids=["quick", "scrub", "deep"])
def test_a_damaged_key_record_is_a_problem_and_the_one_before_it_serves(
    golden: Golden, pgkeep: Pgkeep, level: list[str]
) -> None:
    key = "pgkeep/keys/00000009"
    path = golden.root / "repository" / key
    path.write_bytes(next(iter(golden.store.list("pgkeep/keys/"))).key.encode())
    server_user().own(path)
    document = pgkeep.json("verify", *level, code=68)
    assert [one["key"] for one in document["records"]] == [key]
    (check,) = document["checks"]
    assert check["catalogue"]
    assert check["problems"] == []
    assert key in pgkeep("verify", *level, code=68).stdout


def test_without_any_sound_key_record_objects_are_still_read(
    golden: Golden, pgkeep: Pgkeep
) -> None:
    records = [info.key for info in golden.store.list("pgkeep/keys/")]
    for key in records:
        rot(golden.root / "repository" / key)
    pack = damage(golden)
    for level in ("--scrub", "--deep"):
        document = pgkeep.json("verify", level, code=68)
        assert [one["key"] for one in document["records"]] == records
        (check,) = document["checks"]
        assert [one["key"] for one in check["problems"]] == [pack]
        assert check["everything_read"]
    quick = pgkeep("verify", code=68)
    assert all(key in quick.stdout for key in records)


def test_a_damaged_record_of_a_system_is_a_problem_and_the_system_is_checked(
    golden: Golden, pgkeep: Pgkeep
) -> None:
    (record,) = [info.key for info in golden.store.list("main/systems/")]
    rot(golden.root / "repository" / record)
    pack = damage(golden)
    document = pgkeep.json("verify", "--deep", code=68)
    assert [one["key"] for one in document["records"]] == [record]
    (check,) = document["checks"]
    assert check["system_identifier"] == str(golden.layout.system_identifier)
    assert [one["key"] for one in check["problems"]] == [pack]
    pgkeep("verify", "--system", str(golden.layout.system_identifier), code=68)


def test_a_system_record_that_is_gone_is_named(golden: Golden, pgkeep: Pgkeep) -> None:
    folder = golden.root / "repository" / "main" / "systems"
    (folder / "00000001").rename(folder / "00000002")
    document = pgkeep.json("verify", code=68)
    assert [one["key"] for one in document["records"]] == ["main/systems/00000001"]


def test_a_backup_that_only_one_of_two_repositories_has_is_said_by_a_line_and_67(
    golden: Golden, pgkeep: Pgkeep
) -> None:
    mirror = golden.root / "mirror"
    shutil.copytree(golden.root / "repository", mirror)
    backup = max(golden.expected["backups"])
    layout = golden.layout
    for key in (layout.manifest(backup), layout.manifest_copy(backup)):
        (mirror / key).unlink()
    for path in (mirror, *mirror.rglob("*")):
        server_user().own(path)
    pgkeep.environ["PGKEEP_MIRROR_SECOND_REPO"] = f"file://{mirror}"
    done = pgkeep("verify", code=67)
    (line,) = [line for line in done.stdout.splitlines() if "lacks" in line]
    assert backup in line
    assert "second" in line.partition("lacks")[0]
    document = pgkeep.json("verify", code=67)
    assert document["lacking"] == [{"repository": "second", "backup": backup, "in": ["main"]}]
    damage(golden)
    pgkeep("verify", "--scrub", code=68)  # which is worse
    pgkeep("verify", "--only", "second")
    pgkeep("copy")  # which also mends what was found
    assert pgkeep.json("verify")["lacking"] == []


def test_wal_that_only_one_of_two_repositories_has_is_said_unless_it_was_given_up(
    golden: Golden, pgkeep: Pgkeep
) -> None:
    """A mirror that was away gets the WAL of that time later, and looks sound until then."""
    here, mirror = golden.root / "repository", golden.root / "mirror"
    shutil.copytree(here, mirror)
    # The timelines that were left are whole; the last file is one that nobody would miss.
    segments = sorted(path for path in (mirror / golden.layout.wal).rglob("*") if path.is_file())
    last = segments[-1]
    last.unlink()
    for path in (mirror, *mirror.rglob("*")):
        server_user().own(path)
    pgkeep.environ["PGKEEP_MIRROR_SECOND_REPO"] = f"file://{mirror}"
    pgkeep("verify", "--only", "second")
    before = here / last.relative_to(mirror)

    os.utime(before)  # it may be on its way to the other
    pgkeep("verify")
    os.utime(before, times=(time.time() - 3600,) * 2)
    document = pgkeep.json("verify", code=67)
    assert document["lacking"] == [
        {"repository": "second", "wal": last.name, "files": 1, "in": ["main"]}
    ]
    assert f"lacks WAL file {last.name}, which main" in pgkeep("verify", code=67).stdout
    pgkeep("copy")
    assert pgkeep.json("verify")["lacking"] == []


def test_a_mirror_without_wal_is_not_called_sound(golden: Golden, pgkeep: Pgkeep) -> None:
    mirror = golden.root / "mirror"
    shutil.copytree(golden.root / "repository", mirror)
    shutil.rmtree(mirror / golden.layout.wal)
    for path in (mirror, *mirror.rglob("*")):
        server_user().own(path)
    pgkeep.environ["PGKEEP_MIRROR_SECOND_REPO"] = f"file://{mirror}"
    found = pgkeep.json("verify", "--only", "second", code=68)["checks"][0]["problems"]
    broken = {backup for problem in found for backup in problem["backups"]}
    assert broken == set(golden.expected["backups"])


STOPPED = """
import os, signal, sys, threading
from pgkeep.cli.main import main
from pgkeep.verify.judging import Judge

# Whoever is started in the background of a shell has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
look, left, lock = Judge.look, [10], threading.Lock()
stop = threading.Event()

def slow(self, key, *, deep):
    with lock:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), int(sys.argv[1]))
    if left[0] <= 0:
        stop.wait(1)
    return look(self, key, deep=deep)

Judge.look = slow
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_check_says_how_far_it_came_and_the_next_goes_on(
    pgkeep: Pgkeep, number: signal.Signals, code: int
) -> None:
    everything = pgkeep.json("verify", "--scrub")["checks"][0]
    command = [sys.executable, "-c", STOPPED, str(int(number)), "verify", "--scrub"]
    env = scrubbed_environment(pgkeep.environ)
    done = run_as_server_user(command, env=env, check=False)
    assert done.returncode == code, done.stderr
    assert "goes on from there" in done.stderr
    assert "Traceback" not in done.stderr
    check = pgkeep.json("verify", "--scrub")["checks"][0]
    assert check["read_after"]
    assert check["everything_read"]
    assert check["good_backups"] == everything["good_backups"]
    assert 0 < check["read_objects"] < everything["read_objects"]


AWAY = """
import sys
from pgkeep.cli.main import main
from pgkeep.errors import StoreUnavailable
from pgkeep.verify.judging import Judge

look = Judge.look

def away(self, key, *, deep):
    if key >= sys.argv[1]:
        raise StoreUnavailable("The store does not answer.", remedy="Try again later.")
    return look(self, key, deep=deep)

Judge.look = away
sys.exit(main(sys.argv[2:]))
"""


def test_a_store_that_goes_away_is_46_and_what_was_read_is_not_read_again(
    golden: Golden, pgkeep: Pgkeep
) -> None:
    *_, last = [info.key for info in golden.store.list(golden.layout.wal)]
    command = [sys.executable, "-c", AWAY, last, "verify", "--scrub"]
    done = run_as_server_user(command, env=scrubbed_environment(pgkeep.environ), check=False)
    assert done.returncode == 46, done.stderr
    assert "is recorded; the next run goes on from there" in done.stderr
    check = pgkeep.json("verify", "--scrub")["checks"][0]
    assert check["everything_read"]
    assert check["read_objects"] == 1
    assert set(check["good_backups"]) == set(golden.expected["backups"])
