"""``restore --check`` comes to an end whatever it finds, and takes no stop for the target."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pgkeep.errors import CheckFailed
from pgkeep.postgres.connection import ServerConnection
from pgkeep.progress import Silent
from pgkeep.restore.checking import CheckReport, check_restored
from pgkeep.restore.recovering import Recovery
from pgkeep.restore.run import RestoreReport
from tests.restore.site import Site
from tests.servers import wait_until

pytestmark = [pytest.mark.end_to_end, pytest.mark.majors(15, 18), pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def programs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the installation under test are found."""
    monkeypatch.setenv("PATH", f"{site.server.installation.bin_dir}:{os.environ['PATH']}")


def check(report: RestoreReport) -> CheckReport:
    return check_restored(report.plan, report.server_facts, progress=Silent())


def archived(site: Site, statement: str) -> None:
    """Run a statement after which there may be no ``postgres`` to go on with; its WAL is stored."""
    switch = "SELECT pg_walfile_name(pg_switch_wal())"
    name = site.server.psql(f"{statement};\n{switch}", "template1")
    done = site.server.pgdata / "pg_wal/archive_status" / f"{name}.done"
    wait_until(done.exists, what=f"{name} is archived")


@pytest.mark.parametrize(
    "statement", ["DROP DATABASE postgres", "ALTER DATABASE postgres ALLOW_CONNECTIONS false"]
)
def test_a_cluster_without_the_database_postgres(site: Site, statement: str) -> None:
    site.backup()
    archived(site, statement)
    checked = check(site.restore(check="quick"))
    assert checked.problems == ()
    assert [look.database for look in checked.looks] == ["template1"]


def test_a_superuser_who_may_not_log_in(site: Site) -> None:
    """Nobody else is known, so it is said, rather than tried for ever."""
    site.backup()
    archived(site, "ALTER ROLE postgres NOLOGIN")
    report = site.restore(check="quick")
    with pytest.raises(CheckFailed, match='role "postgres" is not permitted to log in'):
        check(report)


def test_a_session_that_ends_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all in a database do when recovery drops it."""
    site.backup()
    connect = Recovery.connect
    ended: list[bool] = []

    def ended_once(self: Recovery) -> ServerConnection:
        connection = connect(self)
        if not ended:
            with connect(self) as other:
                pid = connection.value("SELECT pg_backend_pid()")
                ended.append(other.value("SELECT pg_terminate_backend(%s, 10000)", (pid,)))
        return connection

    monkeypatch.setattr(Recovery, "connect", ended_once)
    assert check(site.restore(check="quick")).problems == ()
    assert ended == [True]


@pytest.mark.parametrize("action", ["promote", "pause"])
def test_an_original_that_was_given_more_after_the_backup(site: Site, action: Any) -> None:
    """A hot standby that has less than its primary pauses, wherever it is."""
    site.backup()
    site.server.configure({"max_connections": 77})
    site.server.restart()
    site.server.psql("CREATE TABLE later AS SELECT 1")
    site.server.wait_archived()
    report = site.restore(check="quick", action=action)
    with pytest.raises(CheckFailed, match="its recovery stopped before its target") as caught:
        check(report)
    assert "max_connections = 40 is a lower setting" in str(caught.value)
    # What is said helps.
    with open(report.plan.options.into / "postgresql.auto.conf", "a") as file:
        file.write("max_connections = 77\n")
    again = check(report)
    assert (again.problems, again.paused) == ((), action == "pause")
