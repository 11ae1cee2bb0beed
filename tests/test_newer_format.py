"""A repository, or an object in it, that a newer pgkeep wrote is refused, and never guessed at (8).

The stored bytes get a higher version and hashes that fit, as if a later release had written them.
A command that meets them says "upgrade pgkeep" with exit code 62, and changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, server_user
from tests.servers import PgServer, new_directory

GOLDEN = Path(__file__).parent / "golden/format-1/postgresql-18-age"
REFUSED = 62


def newer_record(path: Path) -> None:
    """A record of format version 2, its hash renewed."""
    line = path.read_bytes().partition(b"\n")[0]
    line = re.sub(rb'("pgkeep": ?)1\b', rb"\g<1>2", line, count=1) + b"\n"
    path.write_bytes(line + b"blake3 " + blake3(line).hexdigest().encode() + b"\n")


def newer_envelope(path: Path) -> None:
    """An object of format version 2, its id and its hash renewed."""
    data = bytearray(path.read_bytes())
    data[7] = 2
    length, d, m = struct.unpack_from("<I32xHH", data, 12)
    data[32:48] = bytes(16)
    data[32:48] = blake3(bytes(data[: 56 + length + d + m])).digest()[:16]
    data[-32:] = blake3(bytes(data[:-32])).digest()
    path.write_bytes(bytes(data))


class Old:
    """This pgkeep, and a copy of a repository."""

    def __init__(self) -> None:
        self.root = new_directory()
        self.place = self.root / "repository"
        shutil.copytree(GOLDEN / "repository", self.place)
        (self.system,) = (p for p in self.place.glob("main/*") if p.name.isdecimal())
        self.backup = sorted(json.loads((GOLDEN / "expected.json").read_text())["backups"])[-1]
        shutil.copy(GOLDEN / "identity.txt", self.root / "identity")
        (self.root / "pgkeep.toml").write_text(
            f'repo = "file://{self.place}"\ncluster = "main"\nstate = "{self.root}/state"\n'
            f'identity = "{self.root}/identity"\n'
        )
        (self.root / "pgkeep.toml").chmod(0o600)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        for path in (self.root, *self.root.rglob("*")):
            if server_user().is_other:
                os.chown(path, server_user().uid, server_user().gid, follow_symlinks=False)
        command = [str(pgkeep_program()), "--config", str(self.root / "pgkeep.toml"), *arguments]
        with popen_as_server_user(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def objects(self) -> dict[str, bytes]:
        paths = (path for path in self.place.rglob("*") if path.is_file())
        found = {str(path.relative_to(self.place)): path.read_bytes() for path in paths}
        return {key: data for key, data in found.items() if not key.startswith(".pgkeep")}


@pytest.fixture
def old() -> Iterator[Old]:
    made = Old()
    yield made
    shutil.rmtree(made.root)


def patch(old: Old, kind: str) -> None:
    """Everything of a kind becomes newer."""
    records = {"repository": "pgkeep/repository", "keys": "pgkeep/keys/*"}
    if kind in records:
        for path in old.place.glob(records[kind]):
            newer_record(path)
        return
    for path in old.system.glob(f"{kind}*/**/*"):
        if path.is_file():
            newer_envelope(path)


def command(old: Old, name: str) -> list[str]:
    return {
        "list": ["list"],
        "show": ["show", old.backup],
        "restore": ["restore", "--into", str(old.root / "back")],
        "verify": ["verify", "--deep"],
    }[name]


READERS = ("list", "show", "restore", "verify")
MEETS = [
    *(("repository", name) for name in READERS),
    *(("keys", name) for name in READERS),
    *(("manifests", name) for name in READERS),
    *(("wal", name) for name in ("restore", "verify")),
    ("packs", "verify"),
]


@pytest.mark.parametrize(("kind", "name"), MEETS)
def test_what_a_newer_pgkeep_wrote_is_refused_and_left_alone(
    old: Old, kind: str, name: str
) -> None:
    patch(old, kind)
    before = old.objects()
    done = old.run(*command(old, name))
    assert (done.returncode, "upgrade pgkeep" in (done.stderr + done.stdout).lower()) == (
        REFUSED,
        True,
    ), done.stdout + done.stderr
    assert not (old.root / "back/global/pg_control").exists()
    now = old.objects()
    assert {key: now.get(key) for key in before} == before


class Living(Pgkeep):
    """A server whose repository a newer pgkeep wrote to; WAL goes there by hand."""

    def __init__(self, server: PgServer) -> None:
        super().__init__()
        self.server = server
        self.of(server)
        self("init", "--recipient", self.public)
        self("setup", "--apply", "--program", str(pgkeep_program()))
        server.restart()
        self("backup")
        self.environ["PGKEEP_MIRROR_SECOND_REPO"] = f"file://{self.root}/second"
        self("init")
        self("copy")

    def refused(self, *arguments: str | Path) -> None:
        before = self.objects()
        done = self(*arguments, code=None)
        said = (done.stdout + done.stderr).lower()
        assert (done.returncode, "upgrade pgkeep" in said) == (REFUSED, True), said
        assert self.objects() == before

    def objects(self) -> dict[Path, bytes]:
        paths = (path for path in self.repository.rglob("*") if path.is_file())
        lasting = (path for path in paths if path.name != "lease" and ".pgkeep" not in str(path))
        return {path: path.read_bytes() for path in lasting}


@pytest.fixture
def living(server_factory: ServerFactory) -> Living:
    return Living(server_factory())


@pytest.mark.end_to_end
@pytest.mark.majors(18)
@pytest.mark.parametrize("kind", ["repository", "keys/*"])
def test_a_server_writes_nothing_to_what_a_newer_pgkeep_changed(living: Living, kind: str) -> None:
    living.server.psql("ALTER SYSTEM SET archive_command = '/bin/true'")
    living.server.reload()
    living.server.psql("CREATE TABLE t AS SELECT 1 i")
    segment = living.server.psql("SELECT pg_walfile_name(pg_switch_wal())")
    for path in living.repository.glob(f"pgkeep/{kind}"):
        newer_record(path)
    living.refused("wal-push", living.server.pgdata / "pg_wal" / segment)
    for command in ("init", "backup", "expire", "copy"):
        living.refused(command)
    living.refused("mark", "m")
    living.refused("hold", "latest")


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_backups_go_on_beside_those_of_a_newer_pgkeep_and_nothing_is_deleted(
    living: Living,
) -> None:
    for path in living.repository.glob("main/*/manifests*/*"):
        newer_envelope(path)
    before = living.objects()
    done = living("backup", code=None)
    assert "Upgrade pgkeep" in done.stderr
    living.refused("expire")
    assert "Upgrade pgkeep" in living("copy", code=67).stderr
    now = living.objects()
    assert {path: now.get(path) for path in before} == before
    assert len(living.json("list", code=REFUSED)["backups"]) == 1
