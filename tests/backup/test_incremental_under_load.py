"""Many backups of a server that is never at rest: any of them restores, and the last one is what a
full backup would have been (invariant 11)."""

from __future__ import annotations

import random

import pytest

from pgkeep.restore.target import at_name
from tests.backup.lineage import Lineage, files_that_differ
from tests.digest import Digest, cluster_digest
from tests.installations import MUST_MAJORS
from tests.load import Load, prepare_pgbench
from tests.servers import PgServer

pytestmark = [pytest.mark.end_to_end, pytest.mark.usefixtures("hasty")]

BACKUPS, FEWER = 30, 8  # many with the newest PostgreSQL, fewer with others
# What the churn left: the next one begins at the first name again.
DROP_CHURN = """DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relname LIKE 'churn%' AND relkind = 'r'
    LOOP EXECUTE 'DROP TABLE ' || name; END LOOP; END $$"""
NOW_AND_THEN = (
    "VACUUM",
    "VACUUM (FREEZE) pgbench_accounts",
    "VACUUM FULL pgbench_history",
    "REINDEX TABLE pgbench_branches",
    "CHECKPOINT",
    "DROP DATABASE IF EXISTS again; CREATE DATABASE again STRATEGY file_copy",
)


def test_any_backup_of_a_busy_server_restores(lineage: Lineage) -> None:
    server, chance = lineage.server, random.Random(8)
    backups = BACKUPS if server.installation.major == MUST_MAJORS[-1] else FEWER
    prepare_pgbench(server)
    digests: dict[str, Digest] = {}
    # The last backup of each part is followed by a moment of rest.
    for end in (1, *sorted(chance.sample(range(2, backups), 2)), backups):
        with Load(server, ddl=True, rate=100) as load:
            while len(lineage.made) < end:
                load.wait_transactions(chance.randrange(1, 40))
                do_now_and_then(server, chance)
                lineage.backup_of_any_state()
        digests[lineage.made[-1]] = mark(server, lineage.made[-1])
        server.psql(DROP_CHURN)
    assert_last_is_as_a_full_one(lineage)
    server.wait_archived()
    for backup, digest in digests.items():
        lineage.check(backup, digest, target=at_name(backup))
    lineage.check(lineage.made[-2])


def do_now_and_then(server: PgServer, chance: random.Random) -> None:
    """Sometimes something that no load does by itself."""
    if chance.random() < 0.5:
        for statement in chance.choice(NOW_AND_THEN).split(";"):
            server.psql(statement)


def mark(server: PgServer, name: str) -> Digest:
    """What the cluster holds now, at the restore point ``name``."""
    digest = cluster_digest(server)
    server.psql(f"SELECT pg_create_restore_point('{name}')")
    return digest


def assert_last_is_as_a_full_one(lineage: Lineage) -> None:
    """Two backups of the server at rest, one of them whole, hold the same files."""
    cluster_digest(lineage.server)
    lineage.server.psql("CHECKPOINT")
    lineage.backup()  # its own queries set the last hint bits
    last = lineage.incremental()
    full = lineage.backup(full=True)
    assert last.head.added_bytes < full.head.added_bytes / 20
    assert full.head.kind == "full"
    one, other = lineage.read(last.head.backup), lineage.read(full.head.backup)
    assert files_that_differ(one, other) == []
