"""The timelines of a cluster as a small tree: which forked off which, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from pgkeep.cli.overview import ClusterView
from pgkeep.postgres.lsn import Lsn


class Branch(NamedTuple):
    """A timeline. ``parent`` and ``left_at``, where it left that, are None for the first one, and
    where the history file is missing; ``is_known`` tells these apart."""

    timeline: int
    parent: int | None
    left_at: Lsn | None
    backups: int
    is_known: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "parent": self.parent,
            "left_at": None if self.left_at is None else str(self.left_at),
            "backups": self.backups,
        }


def branches_of(view: ClusterView) -> list[Branch]:
    """All timelines of which WAL or backups are stored, and their ancestors, ascending."""
    inventory = view.inventory
    backups = Counter(backup.head.timeline for backup in view.backups)
    numbers = {*inventory.segments, *backups}
    for past in filter(None, map(inventory.history, tuple(numbers))):
        numbers.update(one.timeline for one in past.ancestors)
    found = []
    for number in sorted(numbers):
        history = inventory.history(number)
        before = history.ancestors[:-1] if history else ()
        parent, left_at = (before[-1].timeline, before[-1].end) if before else (None, None)
        found.append(Branch(number, parent, left_at, backups[number], history is not None))
    return found


def timeline_lines(branches: Sequence[Branch]) -> list[str]:
    """The tree, if there is more than one timeline."""
    if len(branches) < 2:
        return []
    children: dict[int | None, list[Branch]] = {}
    for one in branches:
        children.setdefault(one.parent, []).append(one)
    lines = ["Timelines"]
    waiting = [(one, "  ") for one in reversed(children[None])]
    while waiting:  # a chain of promotions may be longer than functions can be nested
        branch, indent = waiting.pop()
        lines.append(f"{indent}{_text(branch)}")
        below = indent.replace("├─ ", "│  ").replace("└─ ", "   ")
        mark = "└─ "
        for child in reversed(children.get(branch.timeline, [])):
            waiting.append((child, below + mark))
            mark = "├─ "
    return lines


def _text(branch: Branch) -> str:
    parts = [str(branch.timeline)]
    if not branch.is_known:
        parts.append("its history file is missing")
    elif branch.left_at is not None:
        parts.append(f"from {branch.left_at} on")
    if branch.backups:
        parts.append(f"{branch.backups} backup{'' if branch.backups == 1 else 's'}")
    return f"{parts[0]}  {', '.join(parts[1:])}".rstrip()
