"""The moment just before a database was dropped, at which it is still there.

``DROP DATABASE`` marks the database as invalid and removes its files, and only then commits
(``dropdb`` in ``src/backend/commands/dbcommands.c``). Recovery to a moment, or to just before a
transaction, stops at the end of a transaction and nowhere else (``recoveryStopsBefore`` in
``xlogrecovery.c``): right before that commit, with the database gone, although it lived at the
moment asked for. To stop behind the last transaction that ended before comes to the same, and
spares the database.
"""

from __future__ import annotations

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.postgres.wal_record import TRANSACTION_ENDS, WalEvent, WalEventKind
from pgkeep.restore.search import WalReader, events_on
from pgkeep.restore.way import Way

NOTE = (
    "a database was dropped right behind that point: recovery stops at the last transaction before "
    "it, since PostgreSQL would remove the database's files before it stops"
)


def target_before_drop(
    reader: WalReader, way: Way, event: WalEvent, *, consistent: Lsn
) -> RecoveryTarget | None:
    """Instead of stopping right before ``event``, the end of a transaction; None if no database is
    dropped between the transaction before and that. ``consistent`` is where the backup ended."""
    events = _events_since_last_end(reader, way, event, consistent=consistent)
    ends = [one.lsn for one in events if one.kind in TRANSACTION_ENDS]
    last = ends[-1] if ends else consistent
    drops = [one for one in events if one.kind is WalEventKind.DROP_DATABASE and one.lsn >= last]
    if not drops:
        return None
    return RecoveryTarget("lsn", last, inclusive=bool(ends))


def _events_since_last_end(
    reader: WalReader, way: Way, event: WalEvent, *, consistent: Lsn
) -> list[WalEvent]:
    """What lies before ``event``, as far back as the transaction that ended before it, at least."""
    there = way.index_of(way.number_of(event.lsn))
    lowest = way.index_of(way.number_of(consistent))
    assert there is not None
    assert lowest is not None
    back = 1  # a record may begin in the segment before
    while True:
        start = max(lowest, there - back)
        # One more, for a record that reaches into it.
        found = events_on(reader, way.segments[start : there + 2])
        before = [one for one in found if consistent <= one.lsn < event.lsn]
        if start == lowest or any(one.kind in TRANSACTION_ENDS for one in before):
            return before
        back *= 2
