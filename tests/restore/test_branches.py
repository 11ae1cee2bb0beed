"""After a promotion a restore follows the living timeline, or the one that was named."""

from __future__ import annotations

import pytest

from pgkeep.errors import AmbiguousTimeline, TargetNotReachable
from pgkeep.restore import target
from tests.digest import assert_same_digest, cluster_digest
from tests.restore.site import Site

pytestmark = pytest.mark.end_to_end


def test_branches(site: Site) -> None:
    original = site.server
    original.psql("CREATE TABLE t AS SELECT 1 AS what")
    site.backup()
    original.psql("INSERT INTO t VALUES (2)")
    original.psql("SELECT pg_create_restore_point('the fork')")
    original.wait_archived()

    # A second server takes the original's place, on timeline 2.
    report = site.restore(
        "second", target=target.at_name("the fork"), continue_archiving=True, wal="copied"
    )
    second = site.recovered(report)
    assert second.psql("SHOW archive_mode") == "on"
    second.psql("INSERT INTO t VALUES (20)")
    second.wait_archived()
    assert "00000002.history" in site.stored_wal()
    on_second = cluster_digest(second)
    second.stop()

    # The original was not stopped, and goes on.
    original.psql("INSERT INTO t VALUES (10)")
    original.wait_archived()
    on_original = cluster_digest(original)
    with pytest.raises(AmbiguousTimeline, match="1, 2"):
        site.plan()
    for timeline, digest in ((1, on_original), (2, on_second)):
        restored = site.recovered(site.restore(f"on {timeline}", timeline=timeline))
        assert_same_digest(digest, cluster_digest(restored))
        restored.stop()

    # Without the history file nobody may guess.
    site.forget("00000002.history")
    with pytest.raises(TargetNotReachable, match=r"00000002\.history"):
        site.plan(timeline=2)
    with pytest.raises(TargetNotReachable, match=r"00000002\.history"):
        site.plan()
