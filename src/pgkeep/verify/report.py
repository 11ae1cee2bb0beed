"""What a check is asked for, and what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgkeep.repository.checks import Finding
from pgkeep.repository.layout import Layout
from pgkeep.verify.inspecting import Inspection
from pgkeep.verify.problem import Problem
from pgkeep.verify.reading import Read

PART_SECONDS = 300.0
"""How much reading may be lost to a kill."""


@dataclass(frozen=True)
class VerifyOptions:
    """``level`` as in ``checks``; ``share`` of the bytes to read this time, from 0 to 1;
    ``most_seconds`` of reading. ``by`` is the writer of records, one each ``part_seconds``;
    ``record`` is False where there are no keys to seal them to."""

    level: str
    by: Mapping[str, Any]
    share: float | None = None
    most_seconds: float | None = None
    part_seconds: float = PART_SECONDS
    record: bool = True
    clock: Callable[[], float] = time.monotonic


@dataclass
class VerifyReport:
    """What was found. ``inspection`` is None where the metadata key is not here; ``after`` is the
    key behind which the reading began. ``notes`` are facts that are no problem of a repository."""

    layout: Layout
    inspection: Inspection | None
    read: Read | None = None
    after: str = ""
    round_done: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    proved: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """The backups that cannot be restored."""
        return tuple(sorted({name for problem in self.problems for name in problem.backups}))

    @property
    def not_whole(self) -> frozenset[str]:
        """Those, and the backups that hold what was damaged when it was stored."""
        return frozenset(name for one in self.problems for name in (*one.backups, *one.flawed))

    def add(self, found: Mapping[str, Finding]) -> None:
        """What was read and is bad, with what it breaks. What was named already is not named
        twice; a pack that no backup needs breaks nothing, and is only mentioned."""
        known = {problem.key for problem in self.problems}
        bad = {key: one for key, one in found.items() if key not in known}
        packs: dict[str, list[str]] = {}
        inspection, layout = self.inspection, self.layout
        if inspection is not None:
            keys = [key for key in bad if key.startswith(layout.packs)]
            packs = inspection.needs.backups_of(keys)
        for key, one in sorted(bad.items()):
            if inspection is None:
                self.problems.append(Problem(key, one.text, level=one.level))
                continue
            backups = tuple(packs.get(key) or inspection.backups_of_wal(key, layout))
            if key in packs and not backups and not inspection.needs.unreadable:
                self.notes.append(f"{key}: {one.text}; no listed backup needs it")
                continue
            broken, flawed = ((), backups) if one.is_flaw else (backups, ())
            windows = inspection.impact(key, layout)
            self.problems.append(Problem(key, one.text, broken, windows, one.level, flawed))
