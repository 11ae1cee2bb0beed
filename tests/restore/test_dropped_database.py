"""Back to just before a database was dropped, it is there, whatever else happened or did not."""

from __future__ import annotations

from datetime import datetime

import pytest

from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.restore import target
from pgkeep.restore.target import AskedTarget
from tests.digest import assert_same_digest, cluster_digest
from tests.restore.site import Site

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize("lately", [True, False], ids=["a commit before", "none since the backup"])
def test_the_database_is_there(site: Site, lately: bool) -> None:
    """Nothing was committed between the moment and the drop, so recovery has nowhere to stop but
    at the drop's own commit, behind the removal of the files."""
    server = site.server
    server.psql("CREATE DATABASE precious")
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 5000) i", dbname="precious")
    site.backup()
    if lately:
        server.psql("INSERT INTO t VALUES (0)", dbname="precious")
    digest = cluster_digest(server)
    moment = datetime.fromisoformat(server.psql("SELECT clock_timestamp()").replace(" ", "T"))
    xid = server.psql("SELECT pg_snapshot_xmax(pg_current_snapshot())")
    server.psql("DROP DATABASE precious WITH (FORCE)")
    server.psql("CREATE TABLE later AS SELECT 1 AS a")
    server.wait_archived()
    for into, asked in (
        ("by time", AskedTarget(RecoveryTarget("time", moment, True))),
        ("by xid", target.at_xid(xid, inclusive=False)),
    ):
        report = site.restore(into, target=asked)
        assert any("was dropped right behind" in note for note in report.plan.resolution.notes)
        back = site.recovered(report)
        assert_same_digest(digest, cluster_digest(back))
        back.stop()
    assert "precious" not in cluster_digest(site.recovered(site.restore("end")))
