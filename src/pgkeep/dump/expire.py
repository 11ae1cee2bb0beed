"""Which dumps are kept, and deleting the others.

The rules are those of backups (``keep/deciding.py``). A dump counts as good when it lacks nothing:
one that does is kept within the window, and never instead of a whole one. A dump of all databases
is one thing, so what it has of a database that was dropped goes when it goes.

Dumps that were narrowed to some databases or tables, or made from a backup, are judged among those
that were narrowed likewise: none of them takes the place of one that holds more, or something else.

Nothing lies in a trash: a dump is deleted at once, its contents first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pgkeep.config.keeping import KeepPolicy
from pgkeep.keep.deciding import Candidate, Decision, decide
from pgkeep.keep.look import store_clock
from pgkeep.postgres.lsn import Lsn
from pgkeep.progress import Progress
from pgkeep.repository.dumps import (
    LITTER_LIFE,
    Dumps,
    StoredDump,
    delete_dumps,
    delete_leftovers,
    delete_litter,
    read_dumps,
)
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import ObjectInfo
from pgkeep.units import to_utc_text


@dataclass
class DumpExpiry:
    """What became of one system's dumps. ``litter`` are folders that runs which died have left,
    ``leftovers`` objects in the folders of dumps that are kept, of attempts that failed."""

    layout: Layout
    decisions: list[Decision]
    deleted: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    deleted_bytes: int = 0
    leftovers: int = 0
    leftover_bytes: int = 0


def expire_dumps(
    repository: Repository,
    layouts: Sequence[Layout],
    policy: KeepPolicy,
    *,
    by: Mapping[str, Any],
    progress: Progress,
    dry_run: bool = False,
) -> list[DumpExpiry]:
    """Delete what the policy does not keep, of each system, the present one last; with ``dry_run``
    only say what. ``by`` is who writes.

    Raises what is wrong with a dump that cannot be read (it might be the one for whose sake others
    go), and what the store raises.
    """
    seen = [(layout, read_dumps(repository, layout)) for layout in layouts]
    for _, dumps in seen:
        if dumps.problems:
            raise dumps.problems[0].error
    present = seen[-1][1].dumps
    reports = []
    for layout, dumps in seen:
        now = datetime.now(UTC)
        if not dry_run:
            now = store_clock(repository.store, layout, at=to_utc_text(now), by=by)
        superseded = layout is not layouts[-1] and is_superseded(present, policy)
        decisions = decide_dumps(dumps.dumps, policy, now=now, superseded=superseded)
        report = DumpExpiry(layout, decisions)
        _delete(repository, report, dumps, now, dry_run=dry_run)
        if report.deleted and not dry_run:
            progress.note(f"deleted dumps {', '.join(report.deleted)}")
        reports.append(report)
    return reports


def is_superseded(present: Sequence[StoredDump], policy: KeepPolicy) -> bool:
    """Whether the last dumps of earlier systems may go, since the ``present`` one has as many as
    there must be."""
    whole = sum(one.contents.is_complete and not one.contents.scope for one in present)
    return whole >= policy.backups


def decide_dumps(
    dumps: Sequence[StoredDump], policy: KeepPolicy, *, now: datetime, superseded: bool = False
) -> list[Decision]:
    """A decision for each, in their order."""
    found: dict[str, Decision] = {}
    for scope in {one.contents.scope for one in dumps}:
        alike = [one for one in dumps if one.contents.scope == scope]
        for decision in _decide_alike(alike, policy, now=now, superseded=superseded):
            found[decision.backup] = decision
    return [found[one.id] for one in dumps]


def _decide_alike(
    dumps: Sequence[StoredDump], policy: KeepPolicy, *, now: datetime, superseded: bool
) -> list[Decision]:
    candidates = [
        Candidate(
            id=one.id,
            timeline=1,
            start_lsn=Lsn(0),
            stop_lsn=Lsn(0),
            ended=one.contents.moment,
            stored=one.stored,
            is_good=one.contents.is_complete,
        )
        for one in dumps
    ]
    return decide(candidates, policy, now=now, timelines=(), superseded=superseded)


def _delete(
    repository: Repository, report: DumpExpiry, dumps: Dumps, now: datetime, *, dry_run: bool
) -> None:
    sizes = {one.id: one.contents.stored_bytes for one in dumps.dumps}
    report.deleted = [one.backup for one in report.decisions if not one.is_kept]
    report.deleted_bytes = sum(sizes[name] for name in report.deleted)
    old = {name: infos for name, infos in dumps.litter.items() if _is_dead(infos, now)}
    report.litter = sorted(old)
    left = {name: one for name, one in dumps.leftovers.items() if name not in report.deleted}
    report.leftovers = sum(map(len, left.values()))
    report.leftover_bytes = sum(info.size_bytes for infos in left.values() for info in infos)
    if dry_run:
        return
    delete_dumps(repository.store, report.layout, report.deleted)
    delete_litter(repository.store, report.layout, old)
    delete_leftovers(repository.store, left)


def _is_dead(infos: Sequence[ObjectInfo], now: datetime) -> bool:
    """Whether no run can be at work in a folder: nothing came for days."""
    return max(info.modified for info in infos) + LITTER_LIFE < now
