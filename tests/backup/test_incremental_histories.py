"""The parent of a backup may be of another timeline, or of a state that was taken back: what
counts is what the pages are now (invariant 11)."""

from __future__ import annotations

import subprocess

import pytest

from pgkeep.restore.target import latest
from tests.backup.lineage import Lineage
from tests.servers import PgServer

pytestmark = pytest.mark.usefixtures("hasty")


def make_changes(server: PgServer, value: int) -> None:
    """Other content in the same files, for each value."""
    server.psql(
        f"UPDATE t SET filler = 'now {value}' WHERE i % 97 = {value};"
        f"CREATE TABLE made_{value} AS SELECT {value} AS i FROM generate_series(1, 5000)"
    )


@pytest.fixture
def started(lineage: Lineage) -> Lineage:
    """With something in the cluster, and a first backup."""
    lineage.server.psql(
        "CREATE TABLE t AS SELECT i, repeat('x', 50) AS filler FROM generate_series(1, 50000) i"
    )
    lineage.backup()
    return lineage


def test_two_timelines_are_backed_up_in_turns(started: Lineage) -> None:
    """A copy was promoted, and the original goes on beside it: one's backup is the other's
    parent."""
    original = started.server
    make_changes(original, 1)
    second = started.incremental()
    original.wait_archived()
    make_changes(original, 2)
    heir_of = {"target": latest(), "continue_archiving": True}
    with started.recovered(second.head.backup, **heir_of) as heir:
        for value in (3, 5):
            make_changes(heir, value)
            assert started.incremental(heir).head.timeline == 2
            make_changes(original, value + 1)
            assert started.incremental(original).head.timeline == 1
    started.check_all()


def test_a_data_directory_that_was_put_back_is_backed_up_as_it_is(started: Lineage) -> None:
    server = started.server
    make_changes(server, 1)
    server.stop()
    aside = server.root / "aside"
    subprocess.run(["cp", "-a", server.pgdata, aside], check=True)
    server.start()
    make_changes(server, 2)
    started.incremental()
    make_changes(server, 3)
    started.incremental()
    server.stop()
    server.pgdata.rename(server.root / "given up")
    aside.rename(server.pgdata)
    # A timeline of its own: the WAL that comes now must not bear the names of what is stored.
    server.configure({"restore_command": "false"})
    (server.pgdata / "recovery.signal").touch()
    server.start()
    server.wait_recovery_end()
    make_changes(server, 4)
    assert started.incremental().head.timeline == 2
    make_changes(server, 5)
    started.incremental()
    started.check_all()
