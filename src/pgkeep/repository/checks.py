"""What checks of a system found, and what of it still matters (format, section 9).

A check that reads objects goes through them in the order of their keys and remembers the range of
keys that it has read, not each object: a cluster of ten terabytes has 300,000 packs, and the next
check begins where the last one ended. So what has not been read for longest comes first.

What a check found holds until one that sees as much has seen otherwise: a scrub reads an object as
good in which a deep check found pages that are not what was hashed, and says nothing of them.

Nothing here reads or writes: see ``check_records.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

QUICK, SCRUB, DEEP = "quick", "scrub", "deep"
LEVELS = (QUICK, SCRUB, DEEP)


def at_least(level: str, other: str) -> bool:
    """Whether a check of ``level`` sees all that one of ``other`` sees."""
    return LEVELS.index(level) >= LEVELS.index(other)


class Finding(NamedTuple):
    """What is wrong with an object, and the lowest level that sees it.

    ``is_flaw``: it is what was stored, and was damaged then. A restore yields just that.
    """

    level: str
    text: str
    is_flaw: bool = False


class Verdict(NamedTuple):
    """What is known of a backup: proved as far as ``level`` goes, or broken (found by a check of
    ``level``); ``at`` is UTC text."""

    level: str
    at: str
    is_good: bool


class Pass(NamedTuple):
    """Where a pass through all objects stands: up to the key ``until``, None when it is through.

    ``began`` is UTC text. ``backups`` were there when it began and were not found broken since;
    None where a check without the metadata key began it. ``stopped``: it was not meant to end
    there.
    """

    began: str
    until: str | None
    backups: tuple[str, ...] | None
    stopped: bool = False


@dataclass(frozen=True)
class CheckHistory:
    """What still matters of all checks of a system so far.

    ``bad`` are objects that were not read as good since; those that are only missing are not among
    them, for everybody sees that. ``proved`` has, for each backup and level, when it was proved
    last; ``broken`` those that could not be restored when a check looked last. ``passes`` are by
    level.
    """

    bad: Mapping[str, Finding] = field(default_factory=dict)
    proved: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    broken: Mapping[str, Verdict] = field(default_factory=dict)
    passes: Mapping[str, Pass] = field(default_factory=dict)

    def of_backup(self, backup: str) -> Verdict | None:
        """That it is broken, else the highest level at which it was proved; None for neither."""
        if backup in self.broken:
            return self.broken[backup]
        proofs = self.proved.get(backup, {})
        level = next((one for one in reversed(LEVELS) if one in proofs), None)
        return None if level is None else Verdict(level, proofs[level], True)

    def after(self, check: Check) -> CheckHistory:
        """What matters when this check has been made, too."""
        bad = {
            key: found for key, found in self.bad.items() if not check.absolves(key, found.level)
        }
        for key, found in check.bad.items():
            known = self.bad.get(key)
            if found.level != QUICK:
                higher = known is not None and not at_least(found.level, known.level)
                bad[key] = found._replace(level=known.level) if known and higher else found
        proved = {backup: dict(proofs) for backup, proofs in self.proved.items()}
        for backup in check.backups:
            proved.setdefault(backup, {})[check.kind] = check.at
        broken = {
            backup: verdict
            for backup, verdict in self.broken.items()
            if not check.clears(backup, verdict.level)
        }
        broken |= {backup: Verdict(check.kind, check.at, False) for backup in check.broken}
        passes = dict(self.passes)
        if check.kind != QUICK:
            passes[check.kind] = check.part_of(self.passes.get(check.kind))
        return CheckHistory(bad, proved, broken, passes)

    def what_matters(self, known: Collection[str]) -> CheckHistory:
        """Without what is known of backups that are there no more."""
        return CheckHistory(
            self.bad,
            {backup: proofs for backup, proofs in self.proved.items() if backup in known},
            {backup: verdict for backup, verdict in self.broken.items() if backup in known},
            self.passes,
        )

    def beside(self, other: CheckHistory) -> CheckHistory:
        """What is known of two repositories that are read as one. A backup that is proved in one
        of them can be restored, and is broken only as far as neither has proved it. ``passes`` are
        of one repository, and left out."""
        proved = {name: dict(proofs) for name, proofs in self._sound().items()}
        for name, proofs in other._sound().items():
            mine = proved.setdefault(name, {})
            for level, at in proofs.items():
                mine[level] = max(at, mine.get(level, at))
        broken = {
            name: verdict
            for name, verdict in {**other.broken, **self.broken}.items()
            if name not in proved
        }
        return CheckHistory({**self.bad, **other.bad}, proved, broken)

    def _sound(self) -> Mapping[str, Mapping[str, str]]:
        return {name: proofs for name, proofs in self.proved.items() if name not in self.broken}


@dataclass(frozen=True)
class Check:
    """One check of a whole system, or a part of one.

    ``bad`` is what it found; ``again`` are keys that were bad, were judged again as far as what was
    found goes, and are good or gone. It read the objects whose keys are above ``after`` and up to
    ``until`` ("" from the first, None to the last); neither is set by a quick one, and
    ``round_began`` and ``candidates`` are those of the :class:`Pass` that it belongs to.
    ``backups`` were proved as far as ``kind`` goes; ``broken`` are all that cannot be restored.
    ``catalogue``: whether it knew which backups need what; None in records of before that was
    written.

    ``earlier`` is what matters of the checks before it; None where it is not known.
    """

    kind: str
    at: str
    seconds: float = 0
    bad: Mapping[str, Finding] = field(default_factory=dict)
    again: tuple[str, ...] = ()
    after: str = ""
    until: str | None = None
    round_began: str = ""
    candidates: tuple[str, ...] | None = None
    stopped: bool = False
    backups: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    catalogue: bool | None = True
    read_objects: int = 0
    read_bytes: int = 0
    earlier: CheckHistory | None = None

    @property
    def result(self) -> str:
        """As the format names it."""
        return "bad" if self.bad or self.broken else "stopped" if self.stopped else "good"

    def covers(self, key: str, level: str) -> bool:
        """Whether it has read the object, and seen all that a check of ``level`` sees."""
        in_range = key > self.after and (self.until is None or key <= self.until)
        return self.kind != QUICK and in_range and at_least(self.kind, level)

    def absolves(self, key: str, level: str) -> bool:
        """Whether what was found by ``level`` in this object is not true any more.

        A check that does not know the manifests cannot tell whether an object that is sound in
        itself is the one that they name.
        """
        found = self.bad.get(key)
        is_bad = found is not None and found.level != QUICK
        if is_bad or self.catalogue is False:
            return False
        return key in self.again or self.covers(key, level)

    def clears(self, backup: str, level: str) -> bool:
        """Whether a backup that was found broken by ``level`` is not, as far as this one knows.

        What is known to be bad is judged again by each check that knows the catalogue, so what it
        does not call broken is not. Records of old did not do that.
        """
        if self.catalogue is None:
            return backup in self.backups and at_least(self.kind, level)
        return self.catalogue and backup not in self.broken

    def part_of(self, known: Pass | None) -> Pass:
        """Where its pass stands after it. ``known`` is where the last one of its level stood."""
        backups = self.candidates
        if backups is None and known is not None and known.began == self.round_began:
            backups = known.backups
        return Pass(self.round_began, self.until, backups, self.stopped)
