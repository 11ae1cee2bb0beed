"""What was found by earlier checks of a system (format, section 9).

A check that reads objects goes through them in the order of their keys and remembers the range of
keys that it has read, not each object: a cluster of ten terabytes has 300,000 packs, and the next
check begins where the last one ended. So what has not been read for longest comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound, WrongIdentity
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout, numbered
from pgkeep.repository.record import list_numbered, member, publish
from pgkeep.repository.sealed_record import build_sealed_record, parse_sealed_record
from pgkeep.seal.envelope import damaged
from pgkeep.storage.together import each

QUICK, SCRUB, DEEP = "quick", "scrub", "deep"
LEVELS = (QUICK, SCRUB, DEEP)
MOST_OBJECTS = 10_000
"""How many objects that are not good one record names."""
_REMEMBERED = 256


@dataclass(frozen=True)
class Check:
    """One check of a whole system. ``bad`` is (key, what is wrong) of objects.

    It read the objects whose keys are above ``after`` and up to ``until`` ("" from the first, None
    to the last); neither is set by a quick one. ``round_began`` is when the pass through all
    objects began that it belongs to. ``backups`` were proved as far as ``kind`` goes;
    ``broken`` were found to need what is bad.
    """

    kind: str
    result: str
    at: str
    seconds: float
    bad: tuple[tuple[str, str], ...] = ()
    after: str = ""
    until: str | None = None
    round_began: str = ""
    backups: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    read_objects: int = 0
    read_bytes: int = 0

    def covers(self, key: str) -> bool:
        """Whether it has read the object."""
        return self.kind != QUICK and key > self.after and (self.until is None or key <= self.until)


@dataclass
class CheckHistory:
    """The newest checks, newest first."""

    checks: list[Check] = field(default_factory=list)

    def last_of(self, *kinds: str) -> Check | None:
        return next((one for one in self.checks if one.kind in kinds), None)

    def bad_objects(self) -> dict[str, str]:
        """Keys that were found bad and not read as good since, and what was wrong."""
        found: dict[str, str] = {}
        for check in reversed(self.checks):
            if check.kind != QUICK:
                found = {key: text for key, text in found.items() if not check.covers(key)}
                found.update(check.bad)
        return found

    def of_backup(self, backup: str) -> Check | None:
        """The newest check of the highest level by which a backup was proved, or the one that
        found it broken, if no check of that level proved it since."""
        best: Check | None = None
        for one in self.checks:
            higher = best is None or LEVELS.index(best.kind) < LEVELS.index(one.kind)
            if backup in one.broken and higher:
                return one
            if backup in one.backups and higher:
                best = one
        return best


def record_check(
    repository: Repository, layout: Layout, check: Check, *, by: Mapping[str, Any]
) -> str:
    """Publish what a check found; returns its key. Raises what the store raises."""
    details = asdict(check)
    for name in ("kind", "result", "at", "seconds", "bad"):
        del details[name]
    members = {
        "backup": None,
        "kind": check.kind,
        "result": check.result,
        "seconds": round(check.seconds, 3),
        "objects": [
            {"key": key, "result": "bad", "text": text} for key, text in check.bad[:MOST_OBJECTS]
        ],
        "details": details,
    }

    def build(number: int) -> bytes:
        key = numbered(layout.checks, number)
        return build_sealed_record(repository.keyring, key, members, at=check.at, by=dict(by))

    return publish(repository.store, layout.checks, build)


def read_checks(repository: Repository, layout: Layout) -> CheckHistory:
    """The newest checks of a system; those that cannot be read are left out, for they only inform.

    Nothing without the metadata key. Raises what the store raises.
    """
    if not repository.keyring.can_read_metadata:
        return CheckHistory()
    names = [info.key for info in list_numbered(repository.store, layout.checks)]
    found = each(partial(_read, repository), reversed(names[-_REMEMBERED:]))
    return CheckHistory([check for check in found if check is not None])


def _read(repository: Repository, key: str) -> Check | None:
    """None for one that cannot be read, too."""
    try:
        data = repository.store.get(key)
        return _parse(parse_sealed_record(data, key, repository.keyring), key)
    except (DamagedObject, FormatTooNew, WrongIdentity, ObjectNotFound):
        return None


def _parse(members: dict[str, Any], key: str) -> Check | None:
    """None for a kind that is not known here, or a check of one backup."""
    kind, result = member(members, "kind", str, name=key), member(members, "result", str, name=key)
    details = member(members, "details", dict, name=key)
    if kind not in LEVELS or members.get("backup") is not None:
        return None
    try:
        bad = tuple((str(o["key"]), str(o["text"])) for o in members["objects"])
        until = details["until"]
        return Check(
            kind,
            result,
            members["at"],
            float(members["seconds"]),
            bad,
            str(details["after"]),
            None if until is None else str(until),
            str(details["round_began"]),
            tuple(map(str, details["backups"])),
            tuple(map(str, details["broken"])),
            int(details["read_objects"]),
            int(details["read_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(key, f"its members are malformed ({error})") from error
