"""A restore recovers to exactly the moment that was asked for, whatever way it was asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgkeep.errors import NoSuchBackup, TargetNotReachable
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.restore import target
from pgkeep.restore.target import AskedTarget
from pgkeep.units import from_utc_text
from tests.restore.story import Story

pytestmark = pytest.mark.end_to_end


def at(moment: datetime, *, inclusive: bool = True) -> AskedTarget:
    return AskedTarget(RecoveryTarget("time", moment, inclusive))


def test_the_end_of_stored_wal(story: Story) -> None:
    report = story.assert_restores_to(story.end)
    assert report.plan.resolution.backup.id == story.backup.head.backup


def test_a_moment_and_the_moment_just_before_it(story: Story) -> None:
    story.assert_restores_to(story.after, target=at(story.time))
    story.assert_restores_to(story.before, target=at(story.time, inclusive=False))


def test_a_moment_between_two_transactions(story: Story) -> None:
    story.assert_restores_to(story.before, target=at(story.time - timedelta(microseconds=1)))


def test_a_wal_position(story: Story) -> None:
    asked = target.at_lsn(story.lsn, inclusive=True)
    # The record at this position is the restore point, which changes nothing.
    report = story.assert_restores_to(story.after, target=asked, wal="copied")
    assert report.plan.resolution.target.value == Lsn.parse(story.lsn)


def test_a_transaction_with_it_and_without_it(story: Story) -> None:
    story.assert_restores_to(story.after, target=target.at_xid(str(story.xid), inclusive=True))
    story.assert_restores_to(story.before, target=target.at_xid(str(story.xid), inclusive=False))


def test_a_restore_point(story: Story) -> None:
    story.assert_restores_to(story.after, target=target.at_name("the moment"), wal="copied")


def test_an_older_backup_by_name(story: Story) -> None:
    older = story.first_backup.head.backup
    report = story.assert_restores_to(story.end, backup=older)
    assert report.plan.resolution.backup.id == older


def test_as_soon_as_it_is_consistent(story: Story) -> None:
    report = story.restore(target=target.immediate())
    server = story.recovered(report)
    balances = server.psql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts)"
        " = (SELECT sum(tbalance) FROM pgbench_tellers)"
    )
    assert balances == "t"
    assert server.psql("SELECT count(*) FROM marks") == "0"


def test_a_time_after_the_last_commit_restores_to_the_end_and_says_so(story: Story) -> None:
    asked = at(datetime.now(UTC) + timedelta(days=1))
    report = story.assert_restores_to(story.end, target=asked)
    assert any("later than the last commit" in note for note in report.plan.resolution.notes)
    assert report.plan.resolution.target.kind == "lsn"


def test_a_position_behind_the_last_record_restores_to_the_end_and_says_so(story: Story) -> None:
    last = Lsn(int(report_end(story)[16:], 16) * (16 << 20) + (16 << 20) - 8)
    plan = story.site.plan(target=AskedTarget(RecoveryTarget("lsn", last)))
    assert any("behind the last record" in note for note in plan.resolution.notes)
    beyond = AskedTarget(RecoveryTarget("lsn", last + (32 << 20)))
    with pytest.raises(TargetNotReachable, match="stored WAL ends with"):
        story.site.plan(target=beyond)


def report_end(story: Story) -> str:
    return story.site.plan().resolution.end


def test_what_lies_before_the_first_backup_is_refused_with_the_nearest_moment(
    story: Story,
) -> None:
    first = story.first_backup.head
    with pytest.raises(TargetNotReachable) as caught:
        story.site.plan(target=at(from_utc_text(first.ended) - timedelta(seconds=5)))
    assert caught.value.exit_code == 21
    assert "nearest moment" in str(caught.value)
    with pytest.raises(TargetNotReachable, match="first backup on the way"):
        story.site.plan(target=target.at_lsn("0/2000000", inclusive=True))
    with pytest.raises(TargetNotReachable, match="not in the stored WAL") as missing:
        story.site.plan(target=target.at_xid("5", inclusive=True))
    assert "The nearest transactions in it: " in str(missing.value)
    with pytest.raises(TargetNotReachable, match="not in the stored WAL") as missing:
        story.site.plan(target=target.at_name("no such point"))
    assert "Restore points in it: 'the moment' (" in str(missing.value)
    with pytest.raises(NoSuchBackup):
        story.site.plan(backup="20200101T000000Z")


def test_a_target_before_the_newest_backup_takes_an_older_one(story: Story) -> None:
    before = from_utc_text(story.backup.head.ended) - timedelta(milliseconds=1)
    plan = story.site.plan(target=at(before))
    assert plan.resolution.backup.id == story.first_backup.head.backup


def test_a_plan_changes_nothing(story: Story) -> None:
    before = [(i.key, i.etag) for i in story.site.repository.store.list("")]
    plan = story.site.plan("never made", target=at(story.time))
    assert not plan.options.into.exists()
    assert [(i.key, i.etag) for i in story.site.repository.store.list("")] == before
    assert plan.as_dict()["timeline"] == 1


def test_an_action_other_than_promote_is_taken_at_the_end_of_wal_too(story: Story) -> None:
    """The server ignores the action where there is no target."""
    report = story.restore(action="pause")
    server = story.site.factory.adopt(report.plan.options.into).start()
    story._restored.append((server, report.plan.options.into))
    server.wait_for("SELECT pg_get_wal_replay_pause_state() = 'paused'")
    assert server.psql("SELECT count(*) FROM marks") == "1"
    server.psql("SELECT pg_wal_replay_resume()")
    server.wait_recovery_end()
