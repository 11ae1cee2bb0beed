"""The server makes its checkpoint while the last backup is looked into, and neither of the two is
left to itself when the other fails."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pgkeep.errors import BackupError
from tests.backup.site import Site, Steered, until

pytestmark = pytest.mark.majors(18)


def is_waiting_for_a_checkpoint(site: Site) -> bool:
    """Whether a session is in ``pg_backup_start``."""
    found = site.server.psql(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
        "AND query LIKE '%pg_backup_start%' AND pid <> pg_backend_pid()"
    )
    return found == "1"


@pytest.fixture
def slow(site: Site) -> Site:
    """A server whose checkpoints take minutes, unless one is wanted at once."""
    site.server.psql(
        "CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 30000) g"
    )
    return site


def while_looking(site: Site, do: Callable[[], object]) -> Steered:
    def meanwhile() -> None:
        until(lambda: is_waiting_for_a_checkpoint(site), what="the server makes a checkpoint")
        do()

    return Steered(at="looking for the last backup", do=meanwhile)


def test_the_last_backup_is_looked_into_during_the_checkpoint(slow: Site) -> None:
    progress = while_looking(slow, lambda: slow.server.psql("CHECKPOINT"))
    report = slow.backup(spread_checkpoint=True, progress=progress)
    assert progress.phases.index("waiting for a checkpoint") > 0
    assert [backup.id for backup in slow.listed()] == [report.head.backup]
    slow.check_restorable(slow.listed()[0])


def test_what_fails_meanwhile_ends_the_wait_and_the_servers_backup(slow: Site) -> None:
    def fail() -> None:
        raise BackupError("Nothing will do.", why="It is a test.", remedy="None.")

    began = time.monotonic()
    with pytest.raises(BackupError, match="Nothing will do"):
        slow.backup(spread_checkpoint=True, progress=while_looking(slow, fail))
    assert time.monotonic() - began < 30
    slow.server.psql("CHECKPOINT")  # until then the server does not look at its client
    until(lambda: not is_waiting_for_a_checkpoint(slow), what="the server has noticed")
    assert slow.listed() == []
    slow.backup()
