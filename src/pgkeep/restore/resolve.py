"""From a target to a backup, a timeline and WAL that is all there: before anything is written.

A restore that fails after an hour, or quietly ends early, is what this module is against. So it
reads as much of the stored WAL as it takes to know that PostgreSQL will find the target: for a
moment the commit after it, for a transaction or a restore point the record itself.

A time after the last commit is no error for the user (he wants all there is), and one for
PostgreSQL ("recovery ended before configured recovery target was reached"). So the end that is
stored *now* is written as the target: WAL that arrives while recovery runs must not carry it past
the moment asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import NamedTuple

from pgkeep.errors import TargetNotReachable
from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.postgres.wal_name import previous_segment_number
from pgkeep.postgres.wal_record import TRANSACTION_ENDS, WalEvent, WalEventKind
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import Backup, read_catalogue_and_wal
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.marks import RestorePoint, read_restore_points
from pgkeep.repository.wal_inventory import WalInventory, read_whole_inventory
from pgkeep.restore.before_drop import NOTE, target_before_drop
from pgkeep.restore.candidates import Candidates, readable_backups
from pgkeep.restore.neighbours import Neighbours
from pgkeep.restore.plan import Resolution, RestoreOptions, show_moment_exactly
from pgkeep.restore.refusal import beyond_the_end, missing_wal, no_backup, not_in_wal
from pgkeep.restore.search import WalReader, find_event, look_at_tail
from pgkeep.restore.timeline import read_timeline
from pgkeep.restore.way import Way
from pgkeep.units import from_utc_text

# Requests for plain headers of segments that are under way at a time.
_HEADERS_AHEAD = 16


class _Found(NamedTuple):
    """What a target comes to on a way: the index of the last segment needed, and the rest."""

    end: int
    target: RecoveryTarget
    reaches: datetime | None = None
    notes: tuple[str, ...] = ()


def resolve(
    repository: Repository, layout: Layout, options: RestoreOptions, *, progress: Progress
) -> Resolution:
    """Decide on backup and timeline, and prove that the target will be reached.

    Raises ``TargetNotReachable``, ``AmbiguousTimeline``, ``NoSuchBackup``, ``IdentityNeeded``, and
    what the store raises.
    """
    if not repository.keyring.can_read_data:
        repository.keyring.open_data_key(b"")  # says what is missing
    progress.phase("looking for a way to the target")
    catalogue, listed = read_catalogue_and_wal(repository, layout)
    backups = readable_backups(catalogue, options.backup)
    if not backups:
        raise TargetNotReachable(
            f"There is no backup of {layout.cluster!r} (system {layout.system_identifier}) in "
            f"{repository.store.url}.",
            remedy="Check PGKEEP_REPO and PGKEEP_CLUSTER; pgkeep list shows what there is.",
        )
    segment_size = backups[-1].head.wal_segment_size
    inventory = read_whole_inventory(repository, layout, segment_size, listed=listed)
    reader = WalReader(repository, layout, segment_size, progress)
    named = options.target.target.kind == "name"
    points = read_restore_points(repository.store, layout) if named else []
    return _Resolver(reader, inventory, backups, options, points).run()


class _Resolver:
    def __init__(
        self,
        reader: WalReader,
        inventory: WalInventory,
        backups: Sequence[Backup],
        options: RestoreOptions,
        points: Sequence[RestorePoint] = (),
    ) -> None:
        self._points = points
        self._neighbours = Neighbours(options.target.target)
        self._reader, self._inventory = reader, inventory
        self._options, self._target = options, options.target.target
        self._candidates = Candidates(reader, inventory, backups, options)
        if options.target.note:
            self._candidates.notes.append(options.target.note)

    def run(self) -> Resolution:
        history = read_timeline(self._reader, self._inventory, self._candidates.timeline())
        usable = self._candidates.usable(history)
        finder = {
            "latest": self._latest,
            "immediate": self._immediate,
            "time": self._time,
            "lsn": self._lsn,
            "xid": self._event,
            "name": self._event,
        }[self._target.kind]
        backup, way, found = finder(history, usable)
        if backup.head.failed_pages:
            self._candidates.warnings.append(
                f"Backup {backup.id} holds {backup.head.failed_pages} pages that failed their "
                "checksum when they were read, and no better backup leads to this target. What "
                "is in them is damaged after the restore too."
            )
        return Resolution(
            backup,
            int(history.timeline),
            found.target,
            way.plan(found.end),
            found.end + 1,
            way.name(way.segments[found.end]),
            found.reaches,
            (*self._candidates.notes, *found.notes),
            tuple(self._candidates.warnings),
        )

    def _way(self, history: TimelineHistory, backup: Backup) -> Way:
        return Way(self._inventory, history, backup.start_lsn)

    # -- targets ------------------------------------------------------------------------------

    def _latest(self, history: TimelineHistory, usable: list[Backup]) -> tuple[Backup, Way, _Found]:
        backup = self._candidates.pick(usable)
        way = self._way(history, backup)
        if way.hole is not None:
            raise missing_wal(self._reader, self._target, way, way.hole, usable)
        end = len(way.segments) - 1
        if self._options.action != "promote":
            # The server takes an action only at a target, so the end becomes one.
            return backup, way, self._at_end(way, backup)
        closed = self._closed(way, end)
        return backup, way, _Found(end, self._target, closed)

    def _immediate(
        self, history: TimelineHistory, usable: list[Backup]
    ) -> tuple[Backup, Way, _Found]:
        backup = self._candidates.pick(usable)
        way = self._way(history, backup)
        return backup, way, _Found(self._stop_index(way, backup), self._target, backup.ended)

    def _time(self, history: TimelineHistory, usable: list[Backup]) -> tuple[Backup, Way, _Found]:
        moment = self._target.value
        assert isinstance(moment, datetime)
        before = [backup for backup in usable if backup.ended <= moment]
        if not before:
            first = usable[0].ended
            raise no_backup(
                self._target,
                f"the first backup on the way ended at {show_moment_exactly(first)}",
                nearest=f"The nearest moment that can be reached: {show_moment_exactly(first)}.",
            )
        backup = self._candidates.pick(before)
        way = self._way(history, backup)
        found = self._first_after(way, moment, backup)
        if found is not None:
            return backup, way, found
        if way.hole is not None:
            raise missing_wal(self._reader, self._target, way, way.hole, usable)
        at_end = self._at_end(way, backup)
        note = "is later than the last commit that is stored: restoring to the end"
        return backup, way, at_end._replace(notes=(f"{show_moment_exactly(moment)} {note}",))

    def _first_after(self, way: Way, moment: datetime, backup: Backup) -> _Found | None:
        """The first end of a transaction at which PostgreSQL sees that the moment is over.

        Segments are passed over by the time at which they were closed, and those times need not
        ascend: a clock that ran ahead was set back. PostgreSQL stops at the first commit beyond the
        moment that it meets, even if later ones lie before it. (Bisection, which was here before,
        could step over that commit, and recovery stopped earlier than planned.) The segment in
        which the clock went back may hold commits later than its own closing: it is looked into.
        """
        beyond = _is_after(moment, inclusive=self._target.inclusive)
        before: datetime | None = None
        for index, closed in self._closing_times(way, self._stop_index(way, backup)):
            # One earlier, for a record that began there.
            first = max(0, index - 1)
            event = None
            if closed > moment:
                event = find_event(self._reader, way.segments[first:], beyond)
            elif before is not None and closed < before:
                event = find_event(self._reader, way.segments[first : index + 2], beyond)
            if event is not None:
                found = _Found(self._index_after(way, event.lsn), self._target, moment)
                return self._sparing_databases(way, backup, event, found)
            if closed > moment:
                return None
            before = closed
        return None

    def _closing_times(self, way: Way, low: int) -> Iterator[tuple[int, datetime]]:
        """When each segment from index ``low`` on was closed, in order; headers are read ahead."""
        count = len(way.segments)
        with ThreadPoolExecutor(_HEADERS_AHEAD, thread_name_prefix="closed") as pool:
            for start in range(low, count, _HEADERS_AHEAD * 4):
                indexes = range(start, min(start + _HEADERS_AHEAD * 4, count))
                times = pool.map(lambda index: self._closed(way, index), indexes)
                yield from zip(indexes, times, strict=True)

    def _lsn(self, history: TimelineHistory, usable: list[Backup]) -> tuple[Backup, Way, _Found]:
        lsn = self._target.value
        assert isinstance(lsn, int)
        before = [backup for backup in usable if backup.stop_lsn <= lsn]
        if not before:
            first = usable[0]
            raise no_backup(
                self._target,
                f"the first backup on the way ended at {first.head.stop_lsn}",
                nearest=f"The nearest position that can be reached: {first.head.stop_lsn}.",
            )
        backup = self._candidates.pick(before)
        way = self._way(history, backup)
        end = way.index_of(way.number_of(lsn))
        last = len(way.segments) - 1
        if end is not None and end < last:
            return backup, way, _Found(end + 1, self._target)
        tail = look_at_tail(self._reader, way.segments)
        if end is not None and tail.last_record is not None and lsn <= tail.last_record:
            return backup, way, _Found(end, self._target)
        before_lsn = previous_segment_number(lsn, way.segment_size)
        if end is None and before_lsn != way.segments[-1].number:
            if way.hole is not None:
                raise missing_wal(self._reader, self._target, way, way.hole, usable)
            raise beyond_the_end(self._target, way, self._closed(way, last), tail.last_record)
        found = self._at_end(way, backup)
        note = f"{Lsn(lsn)} lies behind the last record that is stored: restoring to the end"
        return backup, way, found._replace(notes=(note,))

    def _event(self, history: TimelineHistory, usable: list[Backup]) -> tuple[Backup, Way, _Found]:
        """A transaction or a restore point.

        One that is remembered is looked for where it is said to be first, which spares reading all
        WAL from the newest backup to the end.
        """
        remembered = self._before_remembered(history, usable)
        found = self._search(history, usable, remembered) if remembered else None
        found = found or self._search(history, usable, usable)
        if found is not None:
            return found
        newest = self._way(history, usable[-1])
        if newest.hole is not None:
            raise missing_wal(self._reader, self._target, newest, newest.hole, usable)
        names = dict.fromkeys(point.name for point in self._points)
        raise not_in_wal(
            self._target, usable[0], newest, near=self._neighbours, remembered=list(names)
        )

    def _before_remembered(self, history: TimelineHistory, usable: list[Backup]) -> list[Backup]:
        """Backups from which the remembered restore point of this name is reached."""
        for point in self._points:
            if point.name == self._target.value and history.contains(point.timeline, point.lsn):
                return [one for one in usable if one.stop_lsn <= point.lsn]
        return []

    def _search(
        self, history: TimelineHistory, usable: list[Backup], candidates: list[Backup]
    ) -> tuple[Backup, Way, _Found] | None:
        """From the newest candidate to the end, then from each before it up to that.

        Recovery stops at the first such record it meets. If that comes before the backup is
        consistent, the backup is of no use here, and an older one is.
        """
        wanted = self._wanted_event()
        beyond: int | None = None
        for backup in reversed(candidates):
            way = self._way(history, backup)
            end = len(way.segments) if beyond is None else (way.index_of(beyond) or 0) + 2
            event = find_event(
                self._reader, way.segments[:end], _from_position(backup.start_lsn, wanted)
            )
            if event is not None and event.lsn >= backup.stop_lsn:
                return self._with_good_backup(history, usable, backup, event)
            beyond = way.number_of(backup.stop_lsn)
        return None

    def _with_good_backup(
        self, history: TimelineHistory, usable: list[Backup], backup: Backup, event: WalEvent
    ) -> tuple[Backup, Way, _Found]:
        chosen = self._candidates.pick(usable[: usable.index(backup) + 1])
        way = self._way(history, chosen)
        wanted = _from_position(chosen.start_lsn, self._wanted_event())
        if chosen is not backup and find_event(self._reader, way.segments, wanted) != event:
            chosen, way = backup, self._way(history, backup)
        found = _Found(self._index_after(way, event.lsn), self._target, event.time)
        if not self._target.inclusive:
            found = self._sparing_databases(way, chosen, event, found)
        return chosen, way, found

    def _wanted_event(self) -> Callable[[WalEvent], bool]:
        is_wanted = self._event_of_target()

        def look(event: WalEvent) -> bool:
            self._neighbours.note(event)
            return is_wanted(event)

        return look

    def _event_of_target(self) -> Callable[[WalEvent], bool]:
        value = self._target.value
        if self._target.kind == "name":
            return lambda e: e.kind is WalEventKind.RESTORE_POINT and e.name == value
        assert isinstance(value, int)
        xid = value & 0xFFFFFFFF  # WAL has the number without its epoch, and recovery compares that
        return lambda e: e.kind in TRANSACTION_ENDS and e.xid == xid

    def _sparing_databases(
        self, way: Way, backup: Backup, event: WalEvent, found: _Found
    ) -> _Found:
        """What was found, or the same by position where a database is dropped just before it."""
        target = target_before_drop(self._reader, way, event, consistent=backup.stop_lsn)
        if target is None:
            return found
        return found._replace(target=target, notes=(*found.notes, NOTE))

    # -- positions on a way -------------------------------------------------------------------

    def _stop_index(self, way: Way, backup: Backup) -> int:
        number = previous_segment_number(backup.stop_lsn, way.segment_size)
        index = way.index_of(number)
        assert index is not None, "a complete backup has its last segment"
        return index

    def _index_after(self, way: Way, lsn: int) -> int:
        """The index of the segment after the one of a record, for the record may reach into it."""
        index = way.index_of(way.number_of(lsn))
        assert index is not None
        return min(index + 1, len(way.segments) - 1)

    def _at_end(self, way: Way, backup: Backup) -> _Found:
        """The last record that is stored, as a target."""
        tail = look_at_tail(self._reader, way.from_number(way.number_of(backup.start_lsn)))
        assert tail.last_record is not None, "a complete backup holds records"
        target = RecoveryTarget("lsn", tail.last_record)
        return _Found(len(way.segments) - 1, target, tail.last_commit)

    def _closed(self, way: Way, index: int) -> datetime:
        return from_utc_text(self._reader.header(way.segments[index]).modified)


def _is_after(moment: datetime, *, inclusive: bool) -> Callable[[WalEvent], bool]:
    """Whether recovery to a moment stops at this record (``recoveryStopsBefore``)."""
    least = moment + timedelta(microseconds=1) if inclusive else moment
    return lambda event: (
        event.kind in TRANSACTION_ENDS and event.time is not None and event.time >= least
    )


def _from_position(lsn: int, wanted: Callable[[WalEvent], bool]) -> Callable[[WalEvent], bool]:
    return lambda event: event.lsn >= lsn and wanted(event)
