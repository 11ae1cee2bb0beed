"""The whole story as a user lives it: commands only, on a real server, with every target.

One server under load is set up, backed up and damaged; each restore of it is judged by
PostgreSQL's own programs and by the digest that was taken when the target was the present.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pgkeep.seal import age
from tests.digest import Digest, assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.restore.verifybackup import verify_backup
from tests.server_user import run_as_server_user, server_user
from tests.servers import PgServer, new_directory


@dataclass
class Moment:
    """A moment worth going back to, and what the cluster held then."""

    time: str
    lsn: str
    name: str
    xid: str
    digest: Digest


@dataclass
class Site:
    """A server with pgkeep on it."""

    server: PgServer
    program: Path
    folder: Path
    environment: dict[str, str]
    moments: list[Moment] = field(default_factory=list)

    def pgkeep(self, *arguments: str | Path, check: bool = True) -> str:
        done = run_as_server_user(
            [self.program, *map(str, arguments)], env=self.environment, check=False
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def mark(self, name: str) -> Moment:
        """Take the digest of the quiet server, and everything by which one can come back."""
        xid = self.server.psql("INSERT INTO pgbench_history(delta) VALUES (0) RETURNING xmin")
        digest = cluster_digest(self.server)
        lsn = self.server.psql(f"SELECT pg_create_restore_point('{name}')")
        moment = Moment(self.server.psql("SELECT clock_timestamp()"), lsn, name, xid, digest)
        self.moments.append(moment)
        return moment

    def restored(self, *options: str) -> PgServer:
        into = new_directory("r") / "data"
        self.pgkeep("restore", "--into", into, *options)
        return PgServer.adopt(self.server.installation, into)


@pytest.fixture
def site(server_factory: ServerFactory, pgkeep_program: Path) -> Iterator[Site]:
    server = server_factory()
    folder = new_directory("s")
    secret, public = age.generate_identity()
    identity = folder / "identity.txt"
    identity.write_text(secret + "\n")
    identity.chmod(0o600)
    server_user().own(identity)
    environment = {
        **server.env,
        "PGKEEP_REPO": (folder / "repository").as_uri(),
        "PGKEEP_STATE": str(folder / "state"),
        "PGKEEP_IDENTITY": str(identity),
    }
    site = Site(server, pgkeep_program, folder, environment)
    site.pgkeep("init", "--recipient", public)
    site.pgkeep("setup", "--apply")
    server.restart()
    yield site
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.end_to_end
@pytest.mark.every_major
def test_a_cluster_comes_back_as_it_was_at_every_kind_of_target(site: Site) -> None:
    prepare_pgbench(site.server, scale=2)
    with Load(site.server, ddl=True) as load:
        load.wait_churn_rounds(1)
        site.pgkeep("backup")
        load.wait_transactions(200)
    first = site.mark("first")
    with Load(site.server, ddl=True) as load:
        load.wait_transactions(200)
    second = site.mark("second")
    site.server.psql("DROP TABLE pgbench_accounts")
    last = site.mark("last")
    site.server.wait_archived()

    targets: list[tuple[list[str], Moment]] = [
        (["--time", first.time], first),
        (["--lsn", second.lsn], second),
        (["--name", "first"], first),
        (["--xid", second.xid], second),
        (["--latest"], last),
    ]
    for options, moment in targets:
        with site.restored(*options) as back:
            back.wait_recovery_end()
            assert_same_digest(cluster_digest(back), moment.digest)
    judge_by_postgresql(site)


def judge_by_postgresql(site: Site) -> None:
    """What PostgreSQL's own programs say of a restored directory, before and after recovery."""
    back = site.restored("--latest")
    verify_backup(back.installation, back.pgdata)
    back.start()
    back.wait_recovery_end()
    if back.installation.has_contrib:  # the embedded one has no amcheck
        back.psql("CREATE EXTENSION amcheck")
        checked = back.run("pg_amcheck", "--heapallindexed", "-d", "postgres", check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    back.stop()
    checked = back.run("pg_checksums", "--check", "-D", back.pgdata, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "Bad checksums:  0" in checked.stdout


def test_a_restored_copy_archives_nothing_until_it_is_made_the_original(site: Site) -> None:
    """Invariant 22."""
    prepare_pgbench(site.server)
    site.pgkeep("backup")
    site.server.wait_archived()
    site.server.stop()

    def stored() -> set[str]:
        root = site.folder / "repository" / "main"
        return {
            str(path) for path in root.rglob("*") if path.is_file() and "/pins/" not in str(path)
        }

    before = stored()
    with site.restored("--latest") as copy:
        copy.wait_recovery_end()
        copy.psql("CREATE TABLE written_by_the_copy AS SELECT 1 AS x; SELECT pg_switch_wal()")
        copy.psql("CHECKPOINT")
        assert stored() == before
    with site.restored("--latest", "--continue-archiving") as heir:
        heir.wait_recovery_end()
        heir.psql("CREATE TABLE written_by_the_heir AS SELECT 1 AS x")
        heir.wait_archived()
        assert stored() > before
        site.environment.update(heir.env)
        site.pgkeep("backup")
        windows = json.loads(site.pgkeep("list", "--json"))
        assert any(window["timeline"] == 2 for window in windows["windows"]), windows


@pytest.mark.parametrize("broken", ["/nonexistent/pgkeep", "/bin/false"])
def test_a_server_whose_restore_command_is_broken_stops_instead_of_promoting(
    site: Site, broken: str
) -> None:
    """Invariant 17: what PostgreSQL would take for the end of the archive is none."""
    prepare_pgbench(site.server)
    site.pgkeep("backup")
    site.server.psql("CREATE TABLE after_the_backup AS SELECT 1 AS x")
    site.server.wait_archived()
    back = site.restored("--latest")
    settings = back.pgdata / "postgresql.auto.conf"
    text = settings.read_text()
    line = next(line for line in text.splitlines() if line.startswith("restore_command"))
    command = line.index("'") + 1
    options = line.index(" --config")
    settings.write_text(text.replace(line, line[:command] + broken + line[options:]))
    back.start(wait=False)
    assert back.wait_exit() != 0
    assert "selected new timeline" not in back.log_text()


def test_nothing_in_a_sealed_repository_is_readable_without_the_identity(site: Site) -> None:
    """Invariant 24, over every stored byte."""
    site.server.psql(
        "CREATE TABLE very_telling_name AS SELECT 'a secret that nobody may read ' || i AS secret"
        " FROM generate_series(1, 5000) i"
    )
    site.pgkeep("backup")
    site.server.wait_archived()
    words = (b"a secret that nobody may read", b"very_telling_name", b"pg_hba.conf", b"SQLite")
    for path in (site.folder / "repository").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".txt"):  # the papers hold no data
            content = path.read_bytes()
            assert not any(word in content for word in words), path
    del site.environment["PGKEEP_IDENTITY"]
    into = new_directory("r") / "data"
    done = run_as_server_user(
        [site.program, "restore", "--into", str(into), "--latest", "--json"],
        env=site.environment,
        check=False,
    )
    assert done.returncode == 51, done.stdout + done.stderr
    assert not into.exists() or not list(into.iterdir())
