"""One check of one system in one repository, and its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pgkeep.errors import StoreError
from pgkeep.progress import Progress
from pgkeep.repository.checks import DEEP, QUICK, SCRUB, Check, read_checks, record_check
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.units import from_utc_text, to_utc_text
from pgkeep.verify.inspecting import Inspection, inspect
from pgkeep.verify.problem import Problem
from pgkeep.verify.reading import Read, Reading, read_objects, stored_bytes


@dataclass(frozen=True)
class VerifyOptions:
    """``level`` as in ``checks``; ``share`` of the bytes to read this time, from 0 to 1;
    ``most_seconds`` of reading. ``by`` is the writer of records."""

    level: str
    by: Mapping[str, Any]
    share: float | None = None
    most_seconds: float | None = None


@dataclass
class VerifyReport:
    """What was found. ``inspection`` is None where the metadata key is not here."""

    layout: Layout
    inspection: Inspection | None
    read: Read | None
    round_done: bool = False
    problems: list[Problem] = field(default_factory=list)
    proved: tuple[str, ...] = ()


def verify(
    repository: Repository, layout: Layout, options: VerifyOptions, *, progress: Progress
) -> VerifyReport:
    """Check, and record what was found.

    Raises what the store raises, ``IdentityNeeded`` for a deep check without the identity.
    """
    began, clock = datetime.now(UTC), time.monotonic()
    can_look = repository.keyring.can_read_metadata
    inspection = inspect(repository, layout, progress=progress) if can_look else None
    report = VerifyReport(layout, inspection, None)
    if inspection is not None:
        report.problems += inspection.problems
    check = Check(QUICK, "good", to_utc_text(began), 0)
    if options.level != QUICK:
        check = _read(repository, report, options, check, progress)
    elif inspection is not None:
        report.proved = inspection.whole
    bad = tuple((problem.key, problem.what) for problem in report.problems)
    seconds = time.monotonic() - clock
    check = replace(
        check,
        result="bad" if bad else "good",
        seconds=seconds,
        bad=bad,
        backups=report.proved,
        broken=tuple(sorted({name for one in report.problems for name in one.backups})),
    )
    try:
        record_check(repository, layout, check, by=options.by)
    except StoreError as error:
        progress.warn(f"What was found could not be recorded. {error}")
    return report


def _read(
    repository: Repository,
    report: VerifyReport,
    options: VerifyOptions,
    check: Check,
    progress: Progress,
) -> Check:
    layout, inspection = report.layout, report.inspection
    kinds = (DEEP,) if options.level == DEEP else (SCRUB, DEEP)
    last = read_checks(repository, layout).last_of(*kinds)
    bounded = options.share is not None or options.most_seconds is not None
    goes_on = bounded and last is not None and last.until is not None
    after = last.until or "" if last is not None and goes_on else ""
    round_began = last.round_began if last is not None and goes_on else check.at
    size = stored_bytes(repository, layout)
    most = None if options.share is None else max(1, int(size * options.share))
    progress.phase("reading objects" if options.level == SCRUB else "reading and opening objects")
    progress.total(size if most is None else min(size, most))
    reading = Reading(options.level == DEEP, after, most, options.most_seconds)
    needs = inspection.needs if inspection is not None else None
    found = report.read = read_objects(repository, layout, needs, reading, progress=progress)
    report.round_done = found.until is None
    report.problems += _problems(found, report)
    if report.round_done and inspection is not None:
        broken = {name for problem in report.problems for name in problem.backups}
        start = from_utc_text(round_began)
        report.proved = tuple(
            one.id for one in inspection.backups if one.id not in broken and one.ended < start
        )
    return replace(
        check,
        kind=options.level,
        after=after,
        until=found.until,
        round_began=round_began,
        read_objects=found.objects,
        read_bytes=found.bytes,
    )


def _problems(found: Read, report: VerifyReport) -> list[Problem]:
    """What was read and is bad, with what it breaks; what the quick look named already is not
    named twice."""
    layout, inspection = report.layout, report.inspection
    known = {problem.key for problem in report.problems}
    bad = {key: what for key, what in found.bad.items() if key not in known}
    if inspection is None:
        return [Problem(key, what) for key, what in sorted(bad.items())]
    packs = inspection.needs.backups_of([key for key in bad if key.startswith(layout.packs)])
    problems = []
    for key, what in sorted(bad.items()):
        backups = packs.get(key) or inspection.backups_of_wal(key, layout)
        windows = inspection.impact(key, layout)
        problems.append(Problem(key, what, tuple(backups), windows))
    return problems
