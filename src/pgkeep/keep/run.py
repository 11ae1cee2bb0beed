"""``expire``: what a policy gives up, in one repository.

One run does what is due of each step, and no run waits: bytes of what earlier runs threw away go
first, then more is thrown away. The order is what makes a kill at any moment harmless. Each thing
is said, durably, before it is done, and nothing that is done takes away what a backup that counts
needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pgkeep.config.keeping import KeepPolicy
from pgkeep.errors import UnknownSystem
from pgkeep.keep.deciding import Decision, decide
from pgkeep.keep.deleting import delete_all
from pgkeep.keep.litter import compact
from pgkeep.keep.look import Look, look, store_clock, timeline_of
from pgkeep.keep.sweep import Sweep, SweepReport
from pgkeep.keep.wal_ranges import Needed, WalUser, needed_wal
from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import parse_wal_name, segment_name, segment_of
from pgkeep.progress import Progress
from pgkeep.repository.horizons import publish_horizon
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import read_systems
from pgkeep.repository.trash import DELETING, TRASH, UNDELETE, Trash, give_word
from pgkeep.storage.interface import ObjectInfo
from pgkeep.units import to_utc_text

_WAL_AGE = timedelta(hours=1)
"""No WAL goes that was stored more recently, whatever the policy says."""


@dataclass(frozen=True)
class ExpireOptions:
    """``grace_seconds`` is how long a backup stays in the trash. ``by`` is the writer of records.

    ``sweep``: None sweeps when there is something to sweep for, since that reads every manifest.
    """

    policy: KeepPolicy
    grace_seconds: int
    by: Mapping[str, Any]
    dry_run: bool = False
    sweep: bool | None = True


@dataclass
class WalReport:
    """Segments of one timeline that go: from ``first`` to ``last``, ``files`` in all."""

    timeline: int
    first: str
    last: str
    files: int = 0
    bytes: int = 0


@dataclass
class SystemReport:
    """What was done, or would be, in one system. ``decisions`` are on backups that count;
    ``trashed`` go into the trash now, ``deleted`` are those whose bytes go now, ``in_trash`` wait
    there."""

    layout: Layout
    decisions: list[Decision] = field(default_factory=list)
    trashed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    in_trash: list[str] = field(default_factory=list)
    wal: list[WalReport] = field(default_factory=list)
    sweep: SweepReport | None = None
    notes: list[str] = field(default_factory=list)


def expire(
    repository: Repository, cluster: str, options: ExpireOptions, *, progress: Progress
) -> list[SystemReport]:
    """Do what is due in every system of a cluster, in this one repository; the present one first.

    Raises ``IdentityNeeded``, ``StoreDenied`` (this host may not delete), ``DamagedObject`` where a
    record of what is held or thrown away is, and what the store raises. Whatever was done until
    then is sound, and the next run goes on.
    """
    reports: list[SystemReport] = []
    identifiers = [one.system_identifier for one in read_systems(repository.store, cluster)]
    if not identifiers:
        raise UnknownSystem(
            f"The cluster {cluster!r} is not known in {repository.store.url}.",
            remedy="Check PGKEEP_CLUSTER, or run pgkeep init on the database host.",
        )
    superseded = False
    for identifier in reversed(list(dict.fromkeys(identifiers))):
        layout = Layout(cluster, identifier)
        run = _Run(repository, layout, options, superseded=superseded, progress=progress)
        reports.append(run.run())
        superseded = superseded or run.covers_window
    return reports


class _Run:
    """One system."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        options: ExpireOptions,
        *,
        superseded: bool,
        progress: Progress,
    ) -> None:
        self._repository, self._layout, self._options = repository, layout, options
        self._store, self._superseded, self._progress = repository.store, superseded, progress
        self._at = to_utc_text(datetime.now(UTC))
        self.report = SystemReport(layout)
        self.covers_window = False

    def run(self) -> SystemReport:
        self._progress.phase("looking at what is kept")
        now = self._now()
        seen = look(self._repository, self._layout, now=now)
        self._bring_back_held(seen)
        self._delete_trashed(seen)
        self._throw_away(seen)
        self._give_up_wal(seen)
        if self._wants_sweep():
            self.report.sweep = Sweep(
                self._repository,
                self._layout,
                now=now,
                at=self._at,
                by=self._options.by,
                dry_run=self._options.dry_run,
                progress=self._progress,
            ).run()
            if not self._options.dry_run:
                compact(self._store, self._layout, at=self._at, by=self._options.by, now=now)
        return self.report

    def _now(self) -> datetime:
        """The store's clock; for a dry run, which writes nothing, this machine's."""
        if self._options.dry_run:
            return datetime.now(UTC)
        return store_clock(self._store, self._layout, at=self._at, by=self._options.by)

    def _wants_sweep(self) -> bool:
        if self._options.sweep is not None:
            return self._options.sweep
        waiting = next(iter(self._store.list(self._layout.admin("condemned"))), None)
        return bool(self.report.deleted) or waiting is not None

    # -- backups ----------------------------------------------------------------------------------

    def _delete_trashed(self, seen: Look) -> None:
        """The manifests of what has been in the trash for long enough; and of what was going when
        a run was killed."""
        grace = timedelta(seconds=self._options.grace_seconds)
        pinned = seen.pinned_backups()

        def due(trash: Trash) -> list[str]:
            return [
                name
                for name, word in trash.states.items()
                if trash.is_in_trash(name)
                and seen.now - word.since >= grace
                and name not in pinned
                and name not in seen.holds.held
                and name in seen.manifests
            ]

        going = [name for name in seen.trash.states if seen.trash.is_going(name)]
        going = [name for name in going if name in seen.manifests]
        chosen = due(seen.trash)
        if not self._options.dry_run:
            chosen = give_word(
                self._store,
                self._layout,
                DELETING,
                due,
                reason="its time in the trash is over",
                at=self._at,
                by=self._options.by,
            )
        self.report.deleted = sorted({*going, *chosen})
        self.report.in_trash = sorted(
            name
            for name in seen.manifests
            if seen.trash.is_in_trash(name) and name not in self.report.deleted
        )
        if self.report.deleted and not self._options.dry_run:
            self._progress.phase(f"deleting {len(self.report.deleted)} backups")
            self._delete_pins(seen)
            for place in (self._layout.manifest, self._layout.manifest_copy):
                delete_all(self._store, map(place, self.report.deleted))

    def _delete_pins(self, seen: Look) -> None:
        """Of what is deleted: a sweep that finds a pin and no manifest takes the attempt for one
        that still runs, and its packs would stay for as long as a pin lives."""
        attempts = {one.head.attempt for one in seen.backups if one.id in self.report.deleted}
        attempts &= {pin.attempt for pin in seen.done_pins()}
        pins = (info.key for info in self._store.list(self._layout.pins))
        delete_all(self._store, [key for key in pins if key.split("/")[-2] in attempts])

    def _bring_back_held(self, seen: Look) -> None:
        """Who held a backup in the moment in which it was thrown away was told that it is held."""

        def held(trash: Trash) -> list[str]:
            return [name for name in seen.holds.held if trash.is_in_trash(name)]

        if held(seen.trash) and not self._options.dry_run:
            give_word(
                self._store,
                self._layout,
                UNDELETE,
                held,
                reason="it is held",
                at=self._at,
                by=self._options.by,
            )

    def _throw_away(self, seen: Look) -> None:
        """What the policy does not keep goes into the trash."""
        decisions = self._decide(seen, with_trash=False)
        self.report.decisions = decisions
        begin = seen.now - timedelta(days=self._options.policy.days)
        bases = {one.backup for one in decisions if one.is_base}
        stored = {one.id: one.since for one in seen.candidates()}
        self.covers_window = any(stored[name] <= begin for name in bases)
        chosen = [one.backup for one in decisions if not one.is_kept]
        if seen.problems and chosen:
            names = ", ".join(problem.backup for problem in seen.problems)
            self.report.notes.append(f"cannot be read, and stays until it is deleted: {names}")

        def still(trash: Trash) -> list[str]:
            return [name for name in chosen if not trash.is_out(name)]

        if not self._options.dry_run:
            chosen = give_word(
                self._store,
                self._layout,
                TRASH,
                still,
                reason=f"the policy does not keep it: {self._options.policy}",
                at=self._at,
                by=self._options.by,
            )
        self.report.trashed = sorted(chosen)

    def _decide(self, seen: Look, *, with_trash: bool) -> list[Decision]:
        return decide(
            seen.candidates(with_trash=with_trash),
            self._options.policy,
            now=seen.now,
            timelines=self._living(seen),
            superseded=self._superseded,
        )

    def _living(self, seen: Look) -> Iterator[TimelineHistory]:
        """The timelines that were written to within the window, and those of backups."""
        begin = seen.now - timedelta(days=self._options.policy.days)
        living = {number for number, moment in seen.wal_written.items() if moment >= begin}
        newest = max(seen.candidates(), key=lambda one: one.ended, default=None)
        if newest is not None:
            living.add(newest.timeline)
        for number in sorted(living):
            history = seen.inventory.history(number)
            if history is not None:
                yield history

    # -- WAL --------------------------------------------------------------------------------------

    def _give_up_wal(self, seen: Look) -> None:
        if seen.problems:
            self.report.notes.append("no WAL is given up while a backup cannot be read")
            return
        if not seen.backups:
            return
        needed = self._needed(seen)
        oldest = min(seen.now - timedelta(days=self._options.policy.days), seen.now - _WAL_AGE)
        found = _GivenUp(needed, seen.inventory.segment_size, oldest)
        for info in self._store.list(self._layout.wal):
            found.look_at(info)
        self.report.wal = list(found.reports.values())
        if self._options.dry_run or not found.keys:
            return
        for timeline, number in found.horizons.items():
            lsn = Lsn((number + 1) * seen.inventory.segment_size)
            begin = needed.begins.get(timeline)
            if begin is not None:
                lsn = Lsn(begin * seen.inventory.segment_size)
            if lsn > seen.inventory.horizons.get(timeline, Lsn(0)):
                publish_horizon(
                    self._store, self._layout, timeline, lsn, at=self._at, by=self._options.by
                )
        self._progress.phase(f"deleting {len(found.keys)} WAL files")
        delete_all(self._store, found.keys)

    def _needed(self, seen: Look) -> Needed:
        """What is in the trash counts as if it were not there: it may come back."""
        bases = {
            one.backup
            for with_trash in (False, True)
            for one in self._decide(seen, with_trash=with_trash)
            if one.is_base
        }
        bases |= seen.pinned_backups()
        gone = set(self.report.deleted)
        users = [
            WalUser(one.head.timeline, one.start_lsn, one.stop_lsn, one.id in bases)
            for one in seen.backups
            if one.id not in gone
        ]
        inventory = seen.inventory
        return needed_wal(
            users,
            inventory.histories,
            timelines=seen.wal_written,
            segment_size=inventory.segment_size,
        )


class _GivenUp:
    """Goes through the stored WAL, and gathers what nobody needs and is old enough."""

    def __init__(self, needed: Needed, segment_size: int, oldest: datetime) -> None:
        self._needed, self._segment_size, self._oldest = needed, segment_size, oldest
        self.keys: list[str] = []
        self.horizons: dict[int, int] = {}
        self.reports: dict[int, WalReport] = {}

    def look_at(self, info: ObjectInfo) -> None:
        timeline, name = timeline_of(info.key), info.key.rpartition("/")[2]
        if timeline is None or info.modified > self._oldest:
            return
        try:
            number = segment_of(parse_wal_name(name).segment, self._segment_size)
        except ValueError:
            return  # nothing of PostgreSQL's
        if self._needed.keeps(timeline, number):
            return
        self.keys.append(info.key)
        self.horizons[timeline] = max(number, self.horizons.get(timeline, number))
        plain = segment_name(timeline, number, self._segment_size)
        report = self.reports.setdefault(timeline, WalReport(timeline, plain, plain))
        report.first, report.last = min(report.first, plain), max(report.last, plain)
        report.files += 1
        report.bytes += info.size_bytes
