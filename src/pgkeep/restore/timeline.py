"""Which timeline a restore follows, when the user does not say.

PostgreSQL's own ``latest`` is whatever history file has the highest number, found while
recovering. That number may belong to a test somebody made last year. Ours is decided before
anything is written: the timeline of the newest backup and what descends from it; and where
several of those are alive, the user decides.

A timeline that has children is over if its last segment was pushed before its youngest child was
born (that is: before the child's history file was pushed). If it went on, there are two servers.
It did not if that last segment is the one in which the child left it, and holds nothing behind: a
standby that archives (``archive_mode = always``) and goes over to the child pushes what it has of
that segment, under the full name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pgkeep.errors import AmbiguousTimeline, TargetNotReachable
from pgkeep.postgres.history import TimelineHistory, parse_history
from pgkeep.postgres.wal_name import history_name, previous_segment_number
from pgkeep.repository.catalogue import Backup
from pgkeep.repository.wal import read_wal_header
from pgkeep.repository.wal_inventory import WalInventory, timelines_after
from pgkeep.restore.search import Segment, WalReader, look_at_tail, read_wal_file
from pgkeep.storage.together import each, together
from pgkeep.units import from_utc_text, show_moment


@dataclass(frozen=True)
class Branch:
    """A timeline that may be meant. ``born`` is None for one without ancestors, ``last_pushed``
    when nothing of it is stored."""

    timeline: int
    born: datetime | None
    forked_from: str
    last_pushed: datetime | None
    last_segment: str | None


def choose_timeline(reader: WalReader, inventory: WalInventory, newest: Backup) -> int:
    """The one live timeline among that of the newest backup and its descendants.

    Raises ``AmbiguousTimeline``, and ``TargetNotReachable`` when a history file is missing that
    is needed to know.
    """
    base = newest.head.timeline
    _refuse_unknown(inventory, base)
    candidates = timelines_after(inventory.histories, base)
    branches = each(partial(_branch, reader, inventory), candidates)
    live = [
        branch
        for branch in branches
        if not (_is_over(branch, branches, inventory) or _ends_at_fork(reader, inventory, branch))
    ]
    if len(live) == 1:
        return live[0].timeline
    shown = "; ".join(map(_describe, live))
    raise AmbiguousTimeline(
        f"Several timelines may be meant: {', '.join(str(b.timeline) for b in live)}.",
        why=f"{shown[0].upper()}{shown[1:]}.",
        remedy="Say which one with --timeline N.",
        timelines=[branch.timeline for branch in live],
    )


def read_timeline(reader: WalReader, inventory: WalInventory, timeline: int) -> TimelineHistory:
    """The history of a timeline, from the content of its file. Raises ``TargetNotReachable``."""
    known = inventory.history(timeline)
    if known is None:
        raise missing_history(timeline)
    if timeline == 1:
        return known
    name = history_name(timeline)
    return parse_history(read_wal_file(reader.repository, reader.layout, name), timeline)


def missing_history(timeline: int) -> TargetNotReachable:
    """The refusal to guess where a timeline came from."""
    name = history_name(timeline)
    return TargetNotReachable(
        f"The history file {name} is not in the repository, and timeline {timeline} cannot be "
        "followed without it.",
        why="It says where the timeline left its parent; without it a restore could end in the "
        "wrong past.",
        remedy=f"Push pg_wal/{name} from a server that is on this timeline (pgkeep wal-push), or "
        "name another timeline with --timeline.",
        timeline=timeline,
    )


def _refuse_unknown(inventory: WalInventory, base: int) -> None:
    """WAL of a younger timeline without a history may be the one that is meant."""
    for timeline in sorted({base, *inventory.segments}):
        if timeline >= base and inventory.history(timeline) is None:
            raise missing_history(timeline)


def _branch(reader: WalReader, inventory: WalInventory, timeline: int) -> Branch:
    forked, history = "without ancestors", inventory.histories.get(timeline)
    has_parent = history is not None and len(history.ancestors) > 1
    if history is not None and has_parent:
        parent = history.ancestors[-2]
        forked = f"which left timeline {int(parent.timeline)} at {parent.end}"
    numbers = inventory.segments.get(timeline)
    last = Segment(timeline, numbers[-1]) if numbers else None
    born, pushed = together(
        lambda: _pushed(reader, timeline) if has_parent else None,
        lambda: from_utc_text(reader.header(last).pushed) if last else None,
    )
    return Branch(timeline, born, forked, pushed, reader.name(last) if last else None)


def _pushed(reader: WalReader, timeline: int) -> datetime:
    """When the history file of a timeline was stored, by its header."""
    key = reader.layout.wal_file(history_name(timeline))
    header = read_wal_header(reader.repository.store, key, reader.repository.keyring)
    return from_utc_text(header.pushed)


def _is_over(branch: Branch, branches: Sequence[Branch], inventory: WalInventory) -> bool:
    children = timelines_after(inventory.histories, branch.timeline)[1:]
    births = [other.born for other in branches if other.timeline in children and other.born]
    return bool(births) and (branch.last_pushed is None or branch.last_pushed <= max(births))


def _ends_at_fork(reader: WalReader, inventory: WalInventory, branch: Branch) -> bool:
    """Whether nothing was written behind the place where the last child left this timeline."""
    forks = [
        ancestor.end
        for child in timelines_after(inventory.histories, branch.timeline)[1:]
        for ancestor in inventory.histories[child].ancestors
        if ancestor.timeline == branch.timeline and ancestor.end is not None
    ]
    numbers = inventory.segments.get(branch.timeline)
    if not forks or not numbers:
        return False
    fork = max(forks)
    last = Segment(branch.timeline, numbers[-1])
    if last.number != previous_segment_number(fork, reader.segment_size):
        return False
    written = look_at_tail(reader, [last]).last_record
    return written is None or written < fork


def _describe(branch: Branch) -> str:
    last = "has no WAL stored"
    if branch.last_pushed is not None:
        last = f"last archived {branch.last_segment} at {show_moment(branch.last_pushed)}"
    return f"timeline {branch.timeline}, {branch.forked_from}, {last}"
