"""Who asks for what is not in WAL is told what is near."""

from __future__ import annotations

from datetime import UTC, datetime

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.postgres.wal_record import WalEvent, WalEventKind
from pgkeep.restore.neighbours import Neighbours

AT = datetime(2026, 11, 20, 14, 3, 7, tzinfo=UTC)


def commit(xid: int) -> WalEvent:
    return WalEvent(WalEventKind.COMMIT, Lsn(xid * 8), AT, xid)


def point(name: str) -> WalEvent:
    return WalEvent(WalEventKind.RESTORE_POINT, Lsn(800), AT, name=name)


def told(target: RecoveryTarget, *events: WalEvent) -> Neighbours:
    near = Neighbours(target)
    for event in events:
        near.note(event)
    return near


def test_the_transactions_on_both_sides() -> None:
    events = [commit(xid) for xid in (700, 720, 705, 740, 731)] + [point("x")]
    near = told(RecoveryTarget("xid", 725), *events)
    moment = "(2026-11-20 14:03:07"
    assert near.sentence().startswith(f"The nearest transactions in it: 720 {moment}")
    assert f", 731 {moment}" in near.sentence()
    assert near.itself is None
    assert "700" in told(RecoveryTarget("xid", 5), *events).sentence()
    assert told(RecoveryTarget("xid", 5)).sentence() == ""


def test_numbers_go_round_and_an_epoch_is_none_of_theirs() -> None:
    wanted = RecoveryTarget("xid", (7 << 32) + 4)
    near = told(wanted, commit(0xFFFFFFF0), commit(1000))
    assert near.sentence().index("4294967280") < near.sentence().index("1000")
    assert told(wanted, commit(4)).itself == commit(4)


def test_restore_points_that_were_met() -> None:
    near = told(RecoveryTarget("name", "mvoe"), point("move"), commit(7), point("later"))
    assert near.sentence().startswith("Restore points in it: 'move' (")
    assert "'later' (" in near.sentence()
    assert told(RecoveryTarget("name", "move"), point("move")).itself == point("move")
