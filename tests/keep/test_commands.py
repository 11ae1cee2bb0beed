"""The commands on a real server: what is given up goes in steps, and what is kept restores.

The store's clock of a directory is the times of its files. So a test lets hours pass by making all
files older.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from pgkeep.storage.object_url import parse_object_url
from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.object_stores import object_service
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, scrubbed_environment
from tests.servers import PgServer
from tests.storage.aws import role_options, versioned_place
from tests.test_attack_story import variables_of
from tests.wrong_clock import wrong_clock

pytestmark = pytest.mark.end_to_end
HOUR = 3600
KEEP_ONE = {"PGKEEP_KEEP": "1 backups"}


class Kept(Pgkeep):
    """A sealed repository to which a server archives; the server's table ``t`` counts backups."""

    server: PgServer
    counts: dict[str, int]

    def with_variables(self, variables: Mapping[str, str]) -> Kept:
        """The same, with other settings."""
        other = copy(self)
        other.environ = {**self.environ, **variables}
        return other

    def make_backup(self, *options: str) -> str:
        """A backup of which every page is its own; returns its name."""
        number = len(self.counts) + 1
        self.server.psql(
            f"DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT {number} AS n, "
            "md5(i::text) FROM generate_series(1, 3000) i"
        )
        done = self.json("backup", "--full", *options)
        self.counts[done["backup"]] = number
        return str(done["backup"])

    def pass_time(self, hours: float, *, root: Path | None = None) -> None:
        for path in (root or self.repository).rglob("*"):
            if path.is_file():
                found = path.stat()
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(hours * HOUR * 1e9)))

    def listed(self) -> list[str]:
        return [one["backup"] for one in self.json("list")["backups"]]

    def assert_restores(self, backup: str) -> None:
        into = self.root / "back"
        options = ("--into", into, "--backup", backup, "--immediate")
        self("restore", *options, PGKEEP_IDENTITY=self.secret)
        with PgServer.adopt(self.server.installation, into) as back:
            back.wait_recovery_end()
            assert back.psql("SELECT max(n) FROM t") == str(self.counts[backup])
        shutil.rmtree(into)

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.repository.glob(f"main/*/{pattern}"))


@pytest.fixture
def kept(server_factory: ServerFactory) -> Kept:
    server = server_factory(conf={"archive_timeout": 0})
    kept = Kept()
    kept.server, kept.counts = server, {}
    kept.of(server)
    kept("init", "--recipient", kept.public)
    kept("setup", "--apply", "--program", str(pgkeep_program()))
    server.restart()
    kept.environ["PGKEEP_CONFIG"] = str(kept.state / "pgkeep.toml")
    kept.environ["PGKEEP_EXPIRE_AFTER_BACKUP"] = "off"
    return kept


def test_what_the_policy_does_not_keep_goes_in_steps_and_the_rest_restores(kept: Kept) -> None:
    first, second, third = (kept.make_backup() for _ in range(3))
    before = {"packs": kept.files("packs/*/*"), "wal": kept.files("wal/*/*")}
    said = kept.with_variables(KEEP_ONE)("expire", "--dry-run").stdout
    assert "the newest good one" in said
    assert "2 backups would be put into the trash" in said
    assert kept.listed() == [first, second, third]

    kept.with_variables(KEEP_ONE)("expire")
    assert kept.listed() == [third]
    assert first in kept("list", "--deleted").stdout
    assert kept.files("packs/*/*") == before["packs"]
    asked = ("restore", "--into", "/x", "--backup", first)
    assert "pgkeep undelete" in kept(*asked, code=24, PGKEEP_IDENTITY=kept.secret).stderr

    # A mistake can be undone.
    assert kept.json("undelete", first[:-1])["done"] == {"main": [first]}
    kept.assert_restores(first)
    kept("delete", first)

    kept.pass_time(25)
    report = kept.with_variables(KEEP_ONE).json("expire")["repositories"][0]["systems"][0]
    assert report["deleted"] == [first, second]
    assert report["wal"][0]["files"] > 0
    assert len(kept.files("wal/*/*")) < len(before["wal"])
    assert kept.files("packs/*/*") == before["packs"]  # said, and not done yet
    kept("undelete", first, code=24)

    kept.pass_time(2)
    report = kept.with_variables(KEEP_ONE).json("expire")["repositories"][0]["systems"][0]
    assert report["packs"]["deleted"] > 0
    assert len(kept.files("packs/*/*")) < len(before["packs"]) / 2
    kept("verify")
    assert kept.json("list")["gaps"] == []
    kept.assert_restores(third)
    # And what comes after goes on from it.
    fourth = kept.make_backup()
    kept("verify")
    kept.assert_restores(fourth)


def test_held_and_last_good_backups_are_not_deleted(kept: Kept) -> None:
    first = kept.make_backup("--hold", "--note", "audit")
    second = kept.make_backup()
    assert "held: audit" in kept("list").stdout
    assert "is held" in kept("delete", first, code=69).stderr
    kept.with_variables(KEEP_ONE)("expire")
    assert kept.listed() == [first, second]
    kept("release", first)
    assert "no good backup" in kept("delete", first, second, code=69).stderr
    kept("delete", first)
    assert "no good backup" in kept("delete", "latest", code=69).stderr
    assert "in the trash" in kept("hold", first, code=24).stderr
    kept("delete", "1999", code=24)


def test_a_backup_is_followed_by_expiry_unless_it_is_not_wanted(kept: Kept) -> None:
    first = kept.make_backup()
    on = {"PGKEEP_EXPIRE_AFTER_BACKUP": "on", **KEEP_ONE}
    second = kept.with_variables(on).make_backup("--no-expire")
    assert kept.listed() == [first, second]
    third = kept.with_variables(on).make_backup()
    assert kept.listed() == [third]


def test_a_backup_that_cannot_be_read_stops_the_sweep_until_it_is_given_up(kept: Kept) -> None:
    broken, good = kept.make_backup(), kept.make_backup()
    for place in ("manifests", "manifests-copy"):
        path = kept.files(f"{place}/{broken}")[0]
        path.write_bytes(path.read_bytes()[:-100])
    said = kept.with_variables(KEEP_ONE)("expire", code=64).stderr
    assert f"pgkeep delete {broken}" in said
    kept("delete", broken)
    kept.pass_time(25)
    kept.with_variables(KEEP_ONE)("expire")
    kept.pass_time(2)
    kept.with_variables(KEEP_ONE)("expire")
    kept("verify")
    kept.assert_restores(good)


def test_killed_at_any_moment_it_leaves_what_is_listed_whole(kept: Kept) -> None:
    for _ in range(4):
        kept.make_backup()
    chance = random.Random(20261126)
    began = time.monotonic()
    kept.with_variables(KEEP_ONE)("expire", "--dry-run")
    whole = time.monotonic() - began
    killed, rounds, passed = 0, 0, 0.0
    grace = {"PGKEEP_KEEP_GRACE": "1h"}
    while killed < 6 and rounds < 60:  # how fast it is depends on what else runs here
        rounds += 1
        argv: list[str | Path] = [pgkeep_program(), "expire"]
        env = scrubbed_environment({**kept.environ, **KEEP_ONE, **grace})
        with popen_as_server_user(argv, env=env) as process:
            time.sleep(whole * chance.uniform(0.2, 1.0))
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += process.returncode == -signal.SIGKILL
        kept("verify")
        # Not so much in all that a backup seems to have ended long after it was stored.
        hours = chance.choice([0, 1.2]) if passed < 15 else 0
        passed += hours
        kept.pass_time(hours)
    assert killed == 6
    for _ in range(4):
        kept.with_variables({**KEEP_ONE, **grace})("expire")
        kept.pass_time(1.2)
    (last,) = kept.listed()
    named = {path.parent.name for path in kept.files("packs/*/*")}
    assert len(named) == 1, "packs of deleted backups are still there"
    kept.assert_restores(last)


@pytest.mark.majors(18)
def test_a_host_whose_clock_is_wrong_by_years_loses_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(wrong_clock(kept.root)))
    names = []
    for days in (0, 1095, -1826):
        monkeypatch.setenv("CLOCK_DAYS", str(days))
        kept.server.restart()
        names.append(kept.make_backup())
        kept("expire")
        kept("verify")
        assert kept.listed() == sorted(names)
    assert [int(name[:4]) - int(names[0][:4]) for name in names] == [0, 3, -5]
    # What a policy gives up waits for its time in the trash, whatever a host's clock says; and the
    # one that was made last is kept, although it looks like the oldest.
    for days in (1095, -1826, 1095):
        monkeypatch.setenv("CLOCK_DAYS", str(days))
        kept.with_variables(KEEP_ONE)("expire")
    assert names[-1] in kept.listed()
    assert sorted(path.name for path in kept.files("manifests/*")) == sorted(names)
    for name in set(names) - set(kept.listed()):
        kept("undelete", name)
    monkeypatch.delenv("LD_PRELOAD")
    kept.server.restart()
    names.append(kept.make_backup())
    for name in names:
        kept.assert_restores(name)


def test_each_repository_has_its_own_policy_and_gets_nothing_back(kept: Kept) -> None:
    mirror = kept.root / "mirror"
    kept.environ["PGKEEP_MIRROR_SECOND_REPO"] = mirror.as_uri()
    kept.environ["PGKEEP_KEEP"] = "5 backups"
    kept.environ["PGKEEP_MIRROR_SECOND_KEEP"] = "1 backups"
    kept("init")
    backups = [kept.make_backup() for _ in range(3)]
    for hours in (0, 26, 2, 2):
        for root in (kept.repository, mirror):
            kept.pass_time(hours, root=root)
        kept("expire")

    def there() -> list[str]:
        return sorted(path.name for path in mirror.glob("main/*/manifests/*"))

    wal = sorted(path.name for path in mirror.glob("main/*/wal/*/*"))
    assert there() == backups[-1:]
    assert kept.listed() == backups
    kept("copy")
    assert there() == backups[-1:]
    assert sorted(path.name for path in mirror.glob("main/*/wal/*/*")) == wal
    kept.assert_restores(backups[0])
    alone = {"PGKEEP_REPO": mirror.as_uri()}
    del kept.environ["PGKEEP_MIRROR_SECOND_REPO"], kept.environ["PGKEEP_MIRROR_SECOND_KEEP"]
    kept.with_variables(alone).assert_restores(backups[-1])


@pytest.mark.majors(18)
def test_a_writer_gives_up_nothing_and_a_pruner_does(
    request: pytest.FixtureRequest, server_factory: ServerFactory
) -> None:
    service = object_service(request, "minio")
    place = versioned_place(service)
    kept = Kept(environ=dict(service.environ))
    kept.server, kept.counts = server_factory(), {}
    kept.of(kept.server)
    kept.environ["PGKEEP_REPO"] = place.url
    assert parse_object_url(place.url) == place
    kept("init", "--recipient", kept.public)
    kept("setup", "--apply", "--program", str(pgkeep_program()))
    kept.server.restart()

    def acting_as(role: Any) -> dict[str, str]:
        return {**variables_of(role_options(service, role, place)), **KEEP_ONE}

    grace = {"PGKEEP_KEEP_GRACE": "1s"}
    writer = kept.with_variables(acting_as("writer"))
    pruner = kept.with_variables({**acting_as("pruner"), **grace})
    backups = [writer.make_backup() for _ in range(3)]
    assert kept.listed() == backups
    assert "denied" in writer("expire", code=44).stderr.lower()
    assert kept.listed() == backups
    pruner("expire")
    assert kept.listed() == backups[-1:]
    time.sleep(1.1)  # the trash's time, by MinIO's clock
    done = pruner.json("expire")
    assert done["repositories"][0]["systems"][0]["deleted"] == backups[:-1]
    pruner("verify")
    kept.assert_restores(backups[-1])
