"""The commands on a real server with a backup: what they show, and what they never show."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pgkeep.restore.rates import Measured, Rates, remember_rates
from pgkeep.seal import age
from tests.cli.kit import Pgkeep
from tests.installations import Installation, find_installations
from tests.program import pgkeep_program
from tests.server_user import server_user
from tests.servers import PgServer

PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def kept() -> Iterator[Pgkeep]:
    """A sealed repository with one backup; its server runs."""
    found = find_installations()
    if not found:
        pytest.skip("no PostgreSQL was found")
    installation: Installation = found[max(found)]
    server = PgServer.create(installation)
    pgkeep = Pgkeep().of(server.start())
    pgkeep("init", "--recipient", pgkeep.public)
    pgkeep("setup", "--apply", "--program", str(pgkeep_program()))
    server.restart()
    pgkeep.environ["PGKEEP_CONFIG"] = str(pgkeep.state / "pgkeep.toml")
    pgkeep("backup", "--note", "before the move")
    yield pgkeep
    server.close()


def test_backup_says_what_it_stored(kept: Pgkeep) -> None:
    done = kept("backup", "--progress", "json")
    assert done.stdout.startswith("Backup 2")
    assert '"phase": "copying"' in done.stderr


def test_list_shows_the_window_and_each_backup(kept: Pgkeep) -> None:
    text = kept("list").stdout
    document = kept.json("list")
    assert "You can go back to any moment" in text
    assert "sealed to 1 recipient" in text
    assert "before the move" in text
    assert all(backup["backup"] in text for backup in document["backups"])
    assert document["windows"][0]["from"] <= document["windows"][0]["to"]
    assert document["gaps"] == []


def test_show_takes_latest_and_the_beginning_of_a_name(kept: Pgkeep) -> None:
    first = kept.json("list")["backups"][0]
    shown = kept.json("show", first["backup"][:-1])
    assert shown["backup"] == first["backup"]
    assert shown["good"] is True
    assert shown["facts"]["server"]
    assert "before the move" in kept("show", first["backup"]).stdout
    latest = kept.json("list")["backups"][-1]["backup"]
    assert kept.json("show", "latest")["backup"] == latest


def test_missing_and_ambiguous_backups_are_refused(kept: Pgkeep) -> None:
    known = kept.json("list")["backups"][0]["backup"]
    assert known in kept("show", "19990101T000000Z", code=24).stderr
    kept("backup")
    assert "is the beginning of" in kept("show", "2", code=24).stderr


def test_missing_segment_is_shown_as_a_gap_and_the_backup_as_not_restorable(
    kept: Pgkeep, tmp_path: Path
) -> None:
    import shutil

    copy = kept.root / "with-a-gap"
    shutil.copytree(kept.repository, copy)
    for path in (copy, *copy.rglob("*")):
        server_user().own(path)
    (segment,) = (path for path in copy.rglob("main/*/wal/*/*") if path.name == first_segment(kept))
    segment.unlink()
    other: dict[str, Any] = {
        "PGKEEP_STATE": str(kept.root / "state-of-copy"),
        "PGKEEP_IDENTITY": kept.secret,
    }
    listed = kept.json("list", "--repo", f"file://{copy}", **other)
    assert listed["backups"][0]["good"] is False
    assert "WAL is missing" in listed["backups"][0]["notes"][0]
    text = kept("list", "--repo", f"file://{copy}", **other).stdout
    assert "cannot be restored: WAL is missing" in text


def first_segment(kept: Pgkeep) -> str:
    """The segment in which the first backup starts."""
    lsn = kept.json("list")["backups"][0]["start_lsn"]
    high, low = (int(part, 16) for part in lsn.split("/"))
    return f"{1:08X}{high:08X}{low >> 24:08X}"


def test_dry_run_of_a_restore_says_what_would_be_done_and_does_nothing(kept: Pgkeep) -> None:
    into = kept.root / "dry"
    options = ("restore", "--into", into, "--latest", "--dry-run")
    secret: dict[str, Any] = {"PGKEEP_IDENTITY": kept.secret}
    plan = kept.json(*options, **secret)
    text = kept(*options, **secret).stdout
    assert (plan["dry_run"], plan["into"]) == (True, str(into))
    assert plan["backup"] in text
    assert not into.exists()
    assert plan["estimate"] is None
    assert "Time" not in text


def test_a_plan_says_how_long_it_will_take_from_the_last_restore(kept: Pgkeep) -> None:
    identity = json.loads(next((kept.state / "repositories").glob("*.json")).read_text())["id"]
    measured = Measured(1 << 30, 10.0)
    path = kept.state / "rates" / f"{identity}.json"
    remember_rates(path, Rates(datetime(2026, 11, 20, 14, tzinfo=UTC), measured))
    server_user().own(path.parent)
    server_user().own(path)
    options = ("restore", "--into", kept.root / "dry", "--dry-run")
    text = kept(*options, PGKEEP_IDENTITY=kept.secret).stdout
    assert "at 102 MiB/s, measured here at the restore of 2026-11-20 14:00:00 UTC" in text
    assert "recovery comes on top" in text


def test_restore_says_how_to_start_the_copy(kept: Pgkeep) -> None:
    into = kept.root / "restored"
    done = kept("restore", "--into", into, "--latest", PGKEEP_IDENTITY=kept.secret)
    assert "It is a copy" in done.stdout
    assert f"-D {into}" in done.stdout
    assert (into / "PG_VERSION").exists()
    kept("restore", "--into", into, "--latest", code=23, PGKEEP_IDENTITY=kept.secret)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for somebody else")
def test_root_checks_what_it_restored_as_the_owner_of_the_directory(kept: Pgkeep) -> None:
    into = server_user().own(kept.root) / "checked"
    found = find_installations()
    programs = f"{found[max(found)].bin_dir}:{os.environ['PATH']}"
    options: dict[str, Any] = {"PGKEEP_IDENTITY": kept.secret, "as_root": True, "PATH": programs}
    done = kept("restore", "--into", into, "--check", **options)
    assert "Checked  it recovered in" in done.stdout
    assert "2 databases accept connections" in done.stdout
    assert "has recovered to the end of stored WAL; once started" in done.stdout
    assert {path.stat().st_uid for path in into.rglob("*")} == {server_user().uid}
    document = kept.json("restore", "--into", kept.root / "again", "--check", **options)
    assert document["checked"]["problems"] == []
    assert {look["database"] for look in document["checked"]["databases"]} >= {"postgres"}
    kept("restore", "--into", kept.root / "no", "--check", "--standby", code=2, **options)


@pytest.mark.parametrize(
    "options",
    [
        ("--latest", "--exclusive"),
        ("--latest", "--timeline", "first"),
        ("--latest", "--tablespace", "fast"),
        ("--lsn", "nonsense"),
        ("--time", "2026-11-20"),
        ("--time", "2026-11-20 14:00+01", "--latest"),
        ("--standby", "--immediate"),
        ("--standby", "--action", "promote"),
        ("--standby", "--continue-archiving"),
        ("--standby", "--primary", "host=db1 password=secret"),
        ("--slot", "standby_1"),
    ],
    ids=" ".join,
)
def test_target_that_makes_no_sense_is_a_matter_of_usage(
    kept: Pgkeep, options: tuple[str, ...]
) -> None:
    kept("restore", "--into", kept.root / "never", *options, code=2)
    assert not (kept.root / "never").exists()


def test_without_any_key_the_list_says_what_is_missing(kept: Pgkeep) -> None:
    done = kept("list", code=51, PGKEEP_STATE=str(kept.root / "stranger"), PGKEEP_CONFIG="")
    assert "PGKEEP_IDENTITY" in done.stderr


def test_no_repository_at_the_url(kept: Pgkeep) -> None:
    empty = kept.root / "empty"
    empty.mkdir()
    server_user().own(empty)
    (empty / "something").mkdir()
    kept("list", "--repo", f"file://{empty}", code=61)
    assert kept.json("list", "--repo", f"file://{empty}", code=61)["exit_code"] == 61


def test_unset_repository_is_a_matter_of_settings(kept: Pgkeep) -> None:
    environ = {"PGKEEP_STATE": kept.environ["PGKEEP_STATE"]}
    assert "PGKEEP_REPO" in kept("list", code=3, environ=environ).stderr


def test_config_says_where_each_value_came_from(kept: Pgkeep) -> None:
    document = kept.json("config", "--cluster", "orders", PGKEEP_JOBS="3")
    settings = document["settings"]
    assert settings["cluster"]["origin"] == "option --cluster"
    assert settings["jobs"] == {
        "value": "3",
        "origin": "environment PGKEEP_JOBS",
        "variable": "PGKEEP_JOBS",
    }
    assert settings["repo"]["origin"] == "environment PGKEEP_REPO"
    assert document["server"]["user"] == "pgkeep"
    assert "environment PGKEEP_JOBS" in kept("config", PGKEEP_JOBS="3").stdout


def test_unknown_variable_stops_every_command_but_help(kept: Pgkeep) -> None:
    done = kept("list", code=3, PGKEEP_REPOSITORY="x")
    assert "Did you mean PGKEEP_REPO?" in done.stderr
    kept("list", "--help", PGKEEP_REPOSITORY="x")
    kept("version", PGKEEP_REPOSITORY="x")


COMMANDS = (
    ("init",),
    ("setup", "--program", "/bin/true"),
    ("backup",),
    ("list",),
    ("show", "latest"),
    ("config",),
    ("version",),
    ("wal-push", "pg_wal/nothing"),
    ("wal-fetch", "00000009.history", "/nonexistent/x"),
    ("restore", "--into", "/nonexistent/x", "--latest", "--dry-run"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_no_secret_is_in_any_output(
    kept: Pgkeep, command: tuple[str, ...], json: tuple[str, ...]
) -> None:
    """With the right secrets and with wrong ones, by text and by file, and with -v."""
    host_key = next((kept.state / "keys").iterdir()).read_text().strip()
    secrets: dict[str, Any] = {"PGKEEP_IDENTITY": kept.secret, "PGKEEP_PASSPHRASE": PASSWORD}
    wrong = {"PGKEEP_IDENTITY": age.generate_identity()[0], "PGKEEP_HOST_KEY": host_key}
    malformed = {"PGKEEP_HOST_KEY": f"nonsense:{PASSWORD}", "PGKEEP_IDENTITY": kept.secret + "X"}
    for variables in (secrets, wrong, malformed):
        done = kept(*command, *json, "-v", code=None, PGPASSWORD=PASSWORD, **variables)
        for secret in (kept.secret, PASSWORD, host_key.rpartition(":")[2], *variables.values()):
            assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS[:7], ids=lambda command: command[0])
def test_json_is_one_document_also_for_errors(kept: Pgkeep, command: tuple[str, ...]) -> None:
    assert isinstance(kept.json(*command, code=None), dict)
    broken = kept.json(*command, code=None, PGKEEP_REPO="nonsense://x", PGKEEP_CONFIG="/nowhere")
    assert broken.get("exit_code") == 3 or command == ("version",)


def test_a_damaged_manifest_hides_no_other_backup_and_is_an_error(kept: Pgkeep) -> None:
    """``list`` shows what can be read, names what cannot, and says so by its exit code."""
    import shutil

    kept("backup")
    copy = kept.root / "with-damage"
    shutil.copytree(kept.repository, copy)
    damaged, *others = [backup["backup"] for backup in kept.json("list")["backups"]]
    for path in copy.rglob(damaged):
        path.write_bytes(b"rubbish")
    for path in (copy, *copy.rglob("*")):
        server_user().own(path)
    other: dict[str, Any] = {
        "PGKEEP_REPO": f"file://{copy}",
        "PGKEEP_STATE": str(kept.root / "state-of-damaged"),
        "PGKEEP_IDENTITY": kept.secret,
    }
    done = kept("list", code=64, **other)
    assert damaged in done.stderr
    assert all(other in done.stdout for other in others)
