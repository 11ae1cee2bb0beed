"""Who can open a repository is changed for what comes, and plainly said for what is there."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from pgkeep.repository.keys import make_key_set
from pgkeep.repository.record import build_record
from pgkeep.seal import age
from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.repository.kit import AT, BY
from tests.server_user import run_as_server_user, server_user
from tests.servers import PgServer, new_directory

pytestmark = pytest.mark.end_to_end


class Kept(Pgkeep):
    server: PgServer

    def restores(self, secret: str, backup: str, *, code: int = 0) -> None:
        """Whether an identity brings a backup back, by reading it all."""
        into = self.root / "back"
        options = ("--into", into, "--backup", backup, "--immediate", "--wal", "copied")
        self("restore", *options, code=code, PGKEEP_IDENTITY=secret)
        run_as_server_user(["rm", "-rf", into])

    def latest(self) -> str:
        return str(self.json("list")["backups"][-1]["backup"])


def members(record: Path) -> Any:
    return json.loads(record.read_text().splitlines()[0])


@pytest.fixture
def kept(server_factory: ServerFactory) -> Kept:
    kept = Kept()
    kept.server = server_factory()
    kept.of(kept.server)
    kept("init", "--recipient", kept.public)
    kept("setup", "--apply", "--program", str(pgkeep_program()))
    kept.server.restart()
    kept.environ["PGKEEP_CONFIG"] = str(kept.state / "pgkeep.toml")
    kept.server.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) i")
    kept("backup")
    return kept


def test_recipients_come_and_go_and_old_data_stays_as_readable_as_it_was(kept: Kept) -> None:
    first, other, public = kept.latest(), *age.generate_identity()
    kept.restores(other, first, code=52)
    assert (
        "2 recipients"
        in kept("keys", "add", "--recipient", public, PGKEEP_IDENTITY=kept.secret).stdout
    )
    kept.restores(other, first)
    kept.restores(kept.secret, first)

    remove = ("keys", "remove", "--recipient", kept.public)
    assert "the one to be removed" in kept(*remove, code=2, PGKEEP_IDENTITY=kept.secret).stderr
    said = kept(*remove, PGKEEP_IDENTITY=other).stdout
    assert "can still read what was stored until now" in said
    listed = kept.json("keys", "list")
    assert (listed["recipients"], listed["former_keys"]) == ([public], 1)
    assert [host["this"] for host in listed["hosts"]] == [True]

    # This host goes on: WAL is archived, and an increment takes over what is stored.
    kept.server.psql("DELETE FROM t WHERE i % 3 = 0")
    kept.server.wait_archived()
    kept("backup")
    second = kept.latest()
    shown = kept.json("show", second)
    assert shown["kind"] == "incremental"
    assert shown["added_bytes"] < shown["stored_bytes"] / 2
    for backup in (first, second):
        kept.restores(other, backup)
        kept.restores(kept.secret, backup, code=52)
    kept("verify", "--deep", PGKEEP_IDENTITY=other)

    # By age itself: the removed one opens the former record and not the new one.
    records = map(members, sorted((kept.repository / "pgkeep/keys").iterdir()))
    secrets = [record["repository_secret"] for record in records]
    identity = kept.root / "removed.txt"
    identity.write_text(kept.secret + "\n")
    server_user().own(identity)
    opened = [
        run_as_server_user(["age", "-d", "-i", identity], input=text, check=False).returncode == 0
        for text in (secrets[0], secrets[-1])
    ]
    assert opened == [True, False]


def test_a_host_that_was_removed_reads_nothing_new_and_others_must_be_told(kept: Kept) -> None:
    there = new_directory("host2")
    second = copy(kept)
    second.environ = {**kept.environ, "PGKEEP_STATE": str(there / "state")}
    del second.environ["PGKEEP_CONFIG"]
    second("init", PGKEEP_IDENTITY=kept.secret)
    assert second("list").stdout
    (name,) = {host["name"] for host in kept.json("keys", "list")["hosts"]}
    done = kept.json("keys", "rotate", PGKEEP_IDENTITY=kept.secret)
    assert done["rotated"]
    assert "fingerprint" in second("list", code=53).stderr
    second("init", "--accept-fingerprint", done["fingerprint"])
    assert second("list").stdout
    kept("backup")
    # Both hosts have the machine's name here, so both are removed.
    kept("keys", "remove", "--host", name, PGKEEP_IDENTITY=kept.secret)
    assert kept.json("keys", "list")["hosts"] == []
    kept("list", code=51)
    kept("list", PGKEEP_IDENTITY=kept.secret)


def test_a_host_whose_key_is_given_is_told_by_the_key(kept: Kept) -> None:
    (path,) = (kept.state / "keys").glob("*.host-key")
    before, text = kept.json("keys", "list")["fingerprint"], path.read_text()
    there = new_directory("container")
    second = copy(kept)
    second.environ = {**kept.environ, "PGKEEP_STATE": str(there / "state")}
    del second.environ["PGKEEP_CONFIG"]
    assert second("list", PGKEEP_HOST_KEY=text).stdout
    after = kept.json("keys", "rotate", PGKEEP_IDENTITY=kept.secret)["fingerprint"]
    said = second("list", code=53, PGKEEP_HOST_KEY=text).stderr
    assert f"PGKEEP-HOST-KEY-1:{after}:AGE-SECRET-KEY-1…" in said
    assert text.split(":")[2].strip() not in said
    new = text.replace(before, after)
    said = second("list", code=53, PGKEEP_HOST_KEY=new).stderr
    second("init", "--accept-fingerprint", after, PGKEEP_HOST_KEY=new)
    assert second("list", PGKEEP_HOST_KEY=new).stdout
    # And when it is this host that makes the new keys.
    told = second("keys", "rotate", PGKEEP_IDENTITY=kept.secret, PGKEEP_HOST_KEY=new).stdout
    assert "until its host key (PGKEEP_HOST_KEY) has" in told
    third = told.partition("New fingerprint: ")[2].split()[0]
    assert second("list", PGKEEP_HOST_KEY=new.replace(after, third)).stdout


def test_a_passphrase_takes_the_place_of_a_key_and_back(kept: Kept) -> None:
    path = kept.root / "passphrase"
    path.write_text("correct horse\n")
    server_user().own(path)
    kept("keys", "passphrase", "--passphrase-file", path, PGKEEP_IDENTITY=kept.secret)
    assert kept.json("keys", "list")["passphrase"] is True
    kept("list", code=52, PGKEEP_IDENTITY=kept.secret)
    whole = ("restore", "--into", kept.root / "whole", "--immediate", "--wal", "copied")
    kept(*whole, PGKEEP_PASSPHRASE_FILE=str(path))
    kept("keys", "add", "--recipient", kept.public, PGKEEP_PASSPHRASE_FILE=str(path))
    kept.restores(kept.secret, kept.latest())


def test_what_makes_no_sense_is_refused_and_nothing_is_changed(kept: Kept) -> None:
    before = sorted((kept.repository / "pgkeep/keys").iterdir())
    kept("keys", "add", code=2, PGKEEP_IDENTITY=kept.secret)
    kept("keys", "add", "--recipient", "nonsense", code=3, PGKEEP_IDENTITY=kept.secret)
    kept("keys", "remove", "--recipient", kept.public, code=2, PGKEEP_IDENTITY=kept.secret)
    kept(
        "keys",
        "remove",
        "--recipient",
        age.generate_identity()[1],
        code=2,
        PGKEEP_IDENTITY=kept.secret,
    )
    kept("keys", "remove", "--host", "nobody", code=2, PGKEEP_IDENTITY=kept.secret)
    kept("keys", "rotate", code=51)
    kept("keys", "rotate", code=52, PGKEEP_IDENTITY=age.generate_identity()[0])
    assert sorted((kept.repository / "pgkeep/keys").iterdir()) == before


def test_a_change_that_reached_one_of_two_repositories_is_carried_to_the_other(kept: Kept) -> None:
    mirror = kept.root / "mirror"
    kept.environ["PGKEEP_MIRROR_SECOND_REPO"] = mirror.as_uri()
    kept("init")
    kept("copy")
    records = [kept.repository / "pgkeep/keys", mirror / "pgkeep/keys"]
    kept("keys", "rotate", PGKEEP_IDENTITY=kept.secret)
    newest = max(records[1].iterdir())
    newest.unlink()  # as if it had been killed between the two
    kept("keys", "list", code=67)
    # Somebody who can write there knows the public halves only, and seals to whom he likes.
    genuine = max(records[0].iterdir())
    forged = make_key_set([kept.public], None)
    former = members(genuine)["previous"]
    build = forged._replace(previous=tuple({**former[0]} for _ in range(2)))
    line = build_record("keys", build.members(members(genuine)["repository"]), at=AT, by=BY)
    place = genuine.with_name(f"{int(genuine.name) + 1:08d}")
    place.write_bytes(line)
    server_user().own(place)
    assert kept("keys", "list", code=None, PGKEEP_IDENTITY=kept.secret).returncode in (52, 53)
    place.unlink()
    kept("keys", "list", PGKEEP_IDENTITY=kept.secret)
    fingerprints = {members(max(one.iterdir()))["fingerprint"] for one in records}
    assert len(fingerprints) == 1
    kept("backup")
    kept("verify")


def test_a_repository_that_is_not_sealed_has_no_keys(server_factory: ServerFactory) -> None:
    kept = Pgkeep().of(server_factory())
    kept("init", "--no-encryption")
    assert "is not encrypted" in kept("keys", "list", code=2).stderr
    assert not list(Path(kept.repository, "pgkeep").glob("keys/*"))
