"""``pgkeep verify`` as a person meets it, on golden repositories."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.errors import PgkeepError
from pgkeep.restore.target import immediate
from tests.cli.kit import Pgkeep
from tests.server_user import server_user
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
