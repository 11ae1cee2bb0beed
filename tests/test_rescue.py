"""The bucket alone is enough: the script that lies in it restores, and PostgreSQL recovers.

It runs as a stranger would run it: from the repository, in a Python that cannot import pgkeep, by
the server's user. What it needs of others is put where it can be seen, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pgkeep.repository.identity import create_repository, make_key_set
from pgkeep.seal import age
from pgkeep.setup.papers import put_rescue, rescue_key, rescue_script
from pgkeep.storage.local import LocalStore
from tests.backup.site import AT, BY, PASSPHRASE, Site
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.restore.site import Site as BranchSite
from tests.server_user import popen_as_server_user, run_as_server_user, server_user
from tests.servers import new_directory

GOLDEN = Path(__file__).parent / "golden/format-1"
NEEDED = ("zstandard", "cryptography", "cffi", "pycparser", "_cffi_backend")


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """What the script needs, and nothing of pgkeep."""
    place = new_directory()
    for name in NEEDED:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        source = Path(spec.origin)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, place / name)
        else:
            shutil.copy(source, place / source.name)
    yield place
    shutil.rmtree(place)


class Stranger:
    """Somebody who has a copy of the repository, and Python."""

    def __init__(self, packages: Path, repository: Path) -> None:
        self.root = new_directory()
        self.place = self.root / "download"
        shutil.copytree(repository, self.place)
        self.packages = packages
        self._key = self.root / "key"
        server_user().own(self.root)

    def key(self, text: str) -> Path:
        self._key.write_text(text + "\n")
        self._key.chmod(0o644)
        return self._key

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """``-I``: neither the environment nor this directory adds a place to import from."""
        for path in (self.place, *self.place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        text = (
            "import sys, runpy\n"
            "sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
            f"sys.path.append({str(self.packages)!r})\n"
            "try:\n"
            "    import pgkeep\n"
            "except ImportError:\n"
            "    pass\n"
            "else:\n"
            "    sys.exit('pgkeep can be imported')\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        script = self.place / "pgkeep/rescue.py"
        command = [sys.executable, "-I", "-c", text, str(script), *map(str, arguments)]
        with popen_as_server_user(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def stranger(packages: Path) -> Iterator[Callable[[Path], Stranger]]:
    made: list[Stranger] = []

    def make(repository: Path) -> Stranger:
        made.append(Stranger(packages, repository))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sites(server_factory: ServerFactory) -> Iterator[Callable[..., Site]]:
    yield lambda **options: Site(server_factory, **options)
    server_factory.close()


def golden(stranger: Callable[[Path], Stranger], name: str) -> tuple[Stranger, dict[str, Any], str]:
    """A repository of the first release, and the option that opens it."""
    folder = GOLDEN / name
    someone = stranger(folder / "repository")
    put_rescue(LocalStore(someone.place))
    shutil.rmtree(someone.place / ".pgkeep", ignore_errors=True)
    key = folder / "identity.txt"
    option = f"--identity={someone.key(key.read_text())}" if key.exists() else ""
    return someone, json.loads((folder / "expected.json").read_text()), option


@pytest.mark.parametrize("sealing", ["age", "passphrase", "none"])
def test_the_script_alone_restores_an_increment_and_the_wal_after_it(
    sites: Callable[..., Site],
    stranger: Callable[[Path], Stranger],
    server_factory: ServerFactory,
    sealing: str,
) -> None:
    site = sites(sealing=sealing, wal_segsize_mb=1)
    site.server.psql("CREATE TABLE kept AS SELECT i, md5(i::text) w FROM generate_series(1,5000) i")
    site.backup()
    site.server.psql("UPDATE kept SET w = 'changed' WHERE i % 9 = 0")
    site.server.psql("CREATE TABLE zeros (i int)")
    increment = site.backup().head
    assert increment.kind == "incremental"
    site.server.psql("INSERT INTO zeros SELECT generate_series(1, 3000)")
    site.server.psql("SELECT pg_switch_wal()")
    digest = cluster_digest(site.server)
    site.server.stop()
    put_rescue(site.store)
    someone = stranger(site.repository_path)
    opened: list[str | Path] = []
    if sealing == "age":
        opened = ["--identity", someone.key(site.identity)]
    elif sealing == "passphrase":
        opened = ["--passphrase-file", someone.key(PASSPHRASE)]
    listed = someone.run("list", someone.place, *opened)
    assert listed.returncode == 0, listed.stderr
    assert f"{increment.backup}  incremental" in listed.stdout
    into = someone.root / "back"
    done = someone.run("restore", someone.place, increment.backup, into, *opened)
    assert done.returncode == 0, done.stderr
    server = server_factory.adopt(into).start()
    server.wait_recovery_end()
    assert_same_digest(cluster_digest(server), digest)
    assert server.psql("SHOW archive_mode") == "off"


@pytest.mark.majors(18)
def test_the_script_knows_former_keys_tablespaces_and_timelines(
    server_factory: ServerFactory, stranger: Callable[[Path], Stranger]
) -> None:
    site = BranchSite(server_factory)
    place = server_user().own(new_directory("fast"))
    site.server.psql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    oid = site.server.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'")
    site.server.psql("CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 5000) i")
    site.server.psql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''")
    site.server.psql("CREATE TABLE u TABLESPACE inside AS SELECT generate_series(1, 5000) i")
    site.backup()
    site.server.psql("INSERT INTO t VALUES (0)")
    site.server.wait_archived()
    # A server that goes on from there on a timeline of its own, and then new keys.
    moved = server_user().own(new_directory("moved"))
    report = site.restore(
        "second", continue_archiving=True, tablespaces={"fast": str(moved)}, wal="copied"
    )
    second = site.recovered(report)
    rotate = ["keys", "rotate", "--config", str(site.config)]
    run_as_server_user([pgkeep_program(), *rotate])
    assert site.backup(second).head.kind == "incremental"
    second.psql("DELETE FROM t WHERE i % 2 = 0")
    second.wait_archived()
    digests = {2: cluster_digest(second)}
    second.stop()
    site.server.psql("INSERT INTO t VALUES (1), (1)")
    site.server.wait_archived()
    digests[1] = cluster_digest(site.server)
    site.server.stop()

    put_rescue(LocalStore(site.repository_path))
    someone = stranger(site.repository_path)
    key: list[str | Path] = ["--identity", someone.key(site.identity)]
    first, last = sorted(path.name for path in site.repository_path.glob("main/*/manifests/*"))
    refused = someone.run("restore", someone.place, last, someone.root / "x", *key)
    assert f"--tablespace {oid}=DIRECTORY" in refused.stderr
    fast = ["--tablespace", f"{oid}={someone.root}/fast"]
    for timeline, backup in ((1, first), (2, last)):
        into = someone.root / str(timeline)
        shutil.rmtree(someone.root / "fast", ignore_errors=True)
        along = ["--timeline", str(timeline)]
        done = someone.run("restore", someone.place, backup, into, *fast, *key, *along)
        assert done.returncode == 0, done.stderr
        server = server_factory.adopt(into).start()
        server.wait_recovery_end()
        assert_same_digest(cluster_digest(server), digests[timeline])
        server.stop()


@pytest.mark.parametrize("name", ["postgresql-15-none", "postgresql-18-age"])
def test_wal_comes_out_as_postgresql_wrote_it(
    stranger: Callable[[Path], Stranger], name: str
) -> None:
    someone, _, option = golden(stranger, name)
    into = someone.root / "wal"
    done = someone.run("wal", someone.place, into, *filter(None, [option]))
    assert done.returncode == 0, done.stderr
    files = sorted(path for path in into.iterdir() if len(path.name) == 24)
    assert files
    assert {path.stat().st_size for path in files} == {1 << 20}
    assert all(path.read_bytes()[1] == 0xD1 for path in files)


class TestRefusals:
    """Nothing is written then, and the text says what to do."""

    NAME = "postgresql-18-age"

    @pytest.fixture
    def sealed(self, stranger: Callable[[Path], Stranger]) -> tuple[Stranger, str, str]:
        someone, expected, option = golden(stranger, self.NAME)
        return someone, sorted(expected["backups"])[-1], option

    def refused(self, given: tuple[Stranger, str, str], *more: str) -> str:
        someone, backup, option = given
        into = someone.root / "refused"
        done = someone.run("restore", someone.place, backup, into, option, *more)
        assert done.returncode not in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert not into.exists() or not (into / "global/pg_control").exists()
        return done.stderr

    def test_a_newer_repository(self, sealed: tuple[Stranger, str, str]) -> None:
        path = sealed[0].place / "pgkeep/repository"
        path.write_bytes(path.read_bytes().replace(b'"pgkeep":1', b'"pgkeep":2'))
        path.write_bytes(path.read_bytes().replace(b'"pgkeep": 1', b'"pgkeep": 2'))
        assert "upgrade pgkeep" in self.refused(sealed)

    @pytest.mark.parametrize("kind", ["manifests", "packs", "wal"])
    def test_newer_objects(self, sealed: tuple[Stranger, str, str], kind: str) -> None:
        for path in sealed[0].place.glob(f"main/*/{kind}*/**/*"):
            if path.is_file():
                data = bytearray(path.read_bytes())
                data[7] = 2
                path.write_bytes(bytes(data))
        assert "upgrade pgkeep" in self.refused(sealed)

    def test_a_void_backup(self, sealed: tuple[Stranger, str, str]) -> None:
        (system,) = sealed[0].place.glob("main/[0-9]*")
        (system / "voids").mkdir()
        (system / "voids" / sealed[1]).write_text("whatever it says")
        assert "void" in self.refused(sealed)

    def test_another_key(self, sealed: tuple[Stranger, str, str]) -> None:
        sealed[0].key(age.generate_identity()[0])
        assert "does not open this repository" in self.refused(sealed)

    @pytest.mark.parametrize("kind", ["packs", "wal"])
    def test_a_bit_that_flipped(self, sealed: tuple[Stranger, str, str], kind: str) -> None:
        for path in sealed[0].place.glob(f"main/*/{kind}/**/*"):
            if path.is_file():
                data = bytearray(path.read_bytes())
                for at in [*range(1000, len(data) - 48, 500), len(data) - 50]:
                    data[at] ^= 4
                path.write_bytes(bytes(data))
        assert "damaged" in self.refused(sealed)

    def test_a_directory_that_holds_something(self, sealed: tuple[Stranger, str, str]) -> None:
        someone, backup, option = sealed
        done = someone.run("restore", someone.place, backup, someone.place, option)
        assert done.returncode == 1
        assert "is not empty" in done.stderr

    def test_a_hole_in_the_wal(self, sealed: tuple[Stranger, str, str]) -> None:
        segments = sorted(sealed[0].place.glob("main/*/wal/*/" + "?" * 24))
        segments[-2].unlink()
        assert f"{segments[-2].name} is missing" in self.refused(sealed)


def test_a_lost_manifest_is_read_from_its_copy(
    stranger: Callable[[Path], Stranger],
) -> None:
    someone, expected, _ = golden(stranger, "postgresql-15-none")
    first, second, *_ = sorted(expected["backups"])
    (system,) = someone.place.glob("main/[0-9]*")
    (system / "manifests" / first).unlink()
    data = bytearray((system / "manifests" / second).read_bytes())
    data[-60] ^= 1
    (system / "manifests" / second).write_bytes(bytes(data))
    listed = someone.run("list", someone.place)
    assert f"{first}  full" in listed.stdout
    assert f"{second}  incremental" in listed.stdout


@pytest.mark.parametrize("path", ["../escaped", "/escaped", "base/../../escaped", "a//b"])
def test_no_path_leads_out_of_the_directory(
    stranger: Callable[[Path], Stranger], path: str
) -> None:
    """Frames that are not sealed can be forged; a forged manifest writes nothing elsewhere."""
    someone, expected, _ = golden(stranger, "postgresql-15-none")
    backup = sorted(expected["backups"])[0]
    (system,) = someone.place.glob("main/[0-9]*")
    for folder in ("manifests", "manifests-copy"):
        forge_directory(system / folder / backup, path)
    done = someone.run("restore", someone.place, backup, someone.root / "in/to")
    assert done.returncode == 60, done.stderr
    assert "is none below a directory" in done.stderr
    assert not list(someone.root.rglob("escaped"))


def forge_directory(path: Path, name: str) -> None:
    """Put a directory of this name into a manifest that is not sealed."""
    import sqlite3

    data = path.read_bytes()
    length, d, m = struct.unpack_from("<I32xHH", data, 12)
    at = 56 + length + d + m
    frames = []
    while at < len(data) - 48:
        size = struct.unpack_from("<I", data, at)[0] & 0x7FFFFFFF
        frames.append(zstandard.ZstdDecompressor().decompress(data[at + 8 : at + 8 + size]))
        at += 8 + size
    body = sqlite3.connect(":memory:")
    body.deserialize(b"".join(frames[1:]))
    body.execute("INSERT INTO directories VALUES (?, 448)", (name,))
    body.commit()
    result = data[: 56 + length + d + m]
    packer = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)
    for plain in (frames[0], body.serialize()):
        packed = packer.compress(plain)
        result += struct.pack("<II", len(packed) | 1 << 31, len(plain)) + packed
    path.write_bytes(result + struct.pack("<QII", 0, 2, 0) + bytes(32))


def test_each_recipient_can_open_it(stranger: Callable[[Path], Stranger], tmp_path: Path) -> None:
    (first, one), (second, two) = age.generate_identity(), age.generate_identity()
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "ssh"], check=True)
    third, three = ((tmp_path / name).read_text().strip() for name in ("ssh", "ssh.pub"))
    store = LocalStore(tmp_path / "repo", create=True)
    create_repository(store, make_key_set([one, two, three], None), at=AT, by=BY)
    put_rescue(store)
    someone = stranger(tmp_path / "repo")
    for secret in (first, second, third):
        done = someone.run("list", someone.place, "--identity", someone.key(secret))
        assert done.returncode == 0, done.stderr
    done = someone.run("list", someone.place, "--identity", someone.key(age.generate_identity()[0]))
    assert done.returncode == 1


def test_a_script_that_is_there_stays_and_a_newer_one_lies_beside_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "repo", create=True)
    store.put("pgkeep/rescue.py", b"an older one")
    put_rescue(store)
    assert store.get("pgkeep/rescue.py") == b"an older one"
    newer = rescue_script().replace(b"RESCUE_VERSION = 1", b"RESCUE_VERSION = 2")
    assert rescue_key(newer) == "pgkeep/rescue-2.py"


def test_the_script_speaks_the_python_that_it_names() -> None:
    import ast

    ast.parse(rescue_script(), feature_version=(3, 9))
    assert os.linesep.encode() in rescue_script()
