"""We leave out what pg_basebackup leaves out, and nothing that a restore needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.exclusions import Exclusions, empty_directories
from pgkeep.postgres.relation import is_temporary_relation
from tests.servers import PgServer, server_user

EXCLUDED = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "recovery.signal",
    "standby.signal",
    "pgkeep.copy",
    "pgkeep_wal",
    "postgresql.auto.conf.tmp",
    "current_logfiles",
    "pg_wal/000000010000000000000001",
    "pg_wal/archive_status/x.ready",
    "pg_wal/summaries/x.summary",
    "pg_replslot/slot/state",
    "pg_stat_tmp/x",
    "base/5/pg_internal.init",
    "base/5/pg_internal.init.123",
    "global/pg_internal.init",
    "base/5/t3_16384",
    "pg_tblspc/16400/PG_18_202506291/5/t3_16384_fsm.1",
    "base/pgsql_tmp",
    "base/pgsql_tmp/pgsql_tmp123.0",
    "pg_tblspc/16400/PG_18_202506291/pgsql_tmp",
]
KEPT = [
    "PG_VERSION",
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "log/postgresql.log",
    "pg_stat/pgstat.stat",
    "pg_xact/0000",
    "pg_twophase/0000000000000001",
    "pg_logical/replorigin_checkpoint",
    "global/pg_control",
    "global/pg_filenode.map",
    "base/5/PG_VERSION",
    "base/5/16384",
    "base/5/16384_init",
    "t3_16384",
    "log/standby.signal",
    "pg_wal",
    "pg_notify",
    "archive/pg_wal/x",
]


@pytest.mark.parametrize("path", EXCLUDED)
def test_left_out(path: str) -> None:
    assert Exclusions().excludes_file(path)


@pytest.mark.parametrize("path", KEPT)
def test_kept(path: str) -> None:
    assert not Exclusions().excludes_file(path)


def test_of_an_unlogged_relation_only_the_init_fork_is_kept() -> None:
    names = ["10", "10_init", "10.1", "10_fsm", "10_vm", "11", "11_fsm", "100", "PG_VERSION"]
    assert Exclusions().unlogged(names) == {"10", "10.1", "10_fsm", "10_vm"}


def test_directories_that_must_exist_are_named() -> None:
    assert "pg_wal/archive_status" in empty_directories(15)
    assert "pg_wal/summaries" not in empty_directories(16)
    assert "pg_wal/summaries" in empty_directories(17)


@pytest.mark.every_major
def test_a_backup_holds_the_same_paths_as_one_of_pg_basebackup(
    server: PgServer, server_tmp: Path
) -> None:
    space = server_user().own(new_child(server_tmp, "space"))
    server.psql(f"CREATE TABLESPACE far LOCATION '{space}'")
    server.psql(
        "CREATE TABLE plain AS SELECT generate_series(1, 10000) n;"
        "CREATE UNLOGGED TABLE unlogged AS SELECT n, n::text AS m FROM plain;"
        "CREATE UNLOGGED TABLE far_unlogged TABLESPACE far AS SELECT n FROM plain;"
        "CREATE TABLE far_plain TABLESPACE far AS SELECT n FROM plain;"
        "CREATE INDEX ON unlogged (n); VACUUM plain, unlogged; CHECKPOINT;"
    )
    with server.connect() as session:
        session.execute("CREATE TEMP TABLE temporary AS SELECT generate_series(1, 1000)")
        session.execute("CREATE TEMP TABLE far_temporary (n int) TABLESPACE far")
        temporary = server.pgdata / "base" / "pgsql_tmp"
        temporary.mkdir(exist_ok=True)
        server_user().own(temporary)
        (temporary / "pgsql_tmp1.0").touch()
        target = server_tmp / "copy"
        mapping = f"--tablespace-mapping={space}={server_tmp / 'far-copy'}"
        server.run(
            *("pg_basebackup", "-D", target, "-X", "none", "-c", "fast", mapping, "--no-sync")
        )
        ours = set(walk_with_exclusions(server.pgdata))
        assert any(is_temporary_relation(Path(path).name) for path in all_paths(server.pgdata))
    theirs = set(all_paths(target)) - {"backup_label", "backup_manifest", "tablespace_map"}
    assert ours == theirs
    kept = {path for path in theirs if (target / path).is_dir()}
    major = server.installation.major
    assert set(empty_directories(major)) - {"pg_wal/archive_status", "pg_wal/summaries"} <= kept


def walk_with_exclusions(pgdata: Path) -> Iterator[str]:
    """Relative paths of all that a backup holds; inside of pg_wal, only PostgreSQL's folders."""
    rules = Exclusions()
    for path in all_paths(pgdata):
        if path in ("pg_wal/archive_status", "pg_wal/summaries"):
            yield path
            continue
        folder, _, name = path.rpartition("/")
        excluded = any(rules.excludes_file(part) for part in with_parents(path))
        if not excluded and rules.may_hold_unlogged(folder):
            neighbours = [neighbour.name for neighbour in (pgdata / folder).iterdir()]
            excluded = name in rules.unlogged(neighbours)
        if not excluded:
            yield path


def new_child(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def all_paths(root: Path) -> Iterator[str]:
    for folder, directories, files in os.walk(root, followlinks=True):
        for name in directories + files:
            yield str(Path(folder, name).relative_to(root))
