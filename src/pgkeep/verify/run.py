"""One check of one system in one repository, and its records.

A long check is recorded in parts, one every few minutes and one when it is stopped, so that a
machine that is switched off costs minutes and not the night.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pgkeep.errors import StoreError
from pgkeep.progress import Progress
from pgkeep.repository.check_records import MOST_OBJECTS, read_checks, read_pass, record_check
from pgkeep.repository.checks import DEEP, QUICK, Check, Finding, Pass
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.units import from_utc_text, to_utc_text
from pgkeep.verify.inspecting import inspect
from pgkeep.verify.judging import Judge
from pgkeep.verify.page_places import read_page_places
from pgkeep.verify.reading import Read, Reading, judge_again, read_objects, stored_bytes
from pgkeep.verify.report import VerifyOptions as VerifyOptions
from pgkeep.verify.report import VerifyReport as VerifyReport

_GOES_ON = timedelta(days=7)
"""A check that was stopped longer ago than this is not gone on from, unless it is by parts."""


def verify(
    repository: Repository, layout: Layout, options: VerifyOptions, *, progress: Progress
) -> VerifyReport:
    """Check, and record what was found.

    Raises what the store raises, ``IdentityNeeded`` for a deep check without the identity. What was
    read until then is recorded, also when it is interrupted.
    """
    can_look = repository.keyring.can_read_metadata
    inspection = inspect(repository, layout, progress=progress) if can_look else None
    report = VerifyReport(layout, inspection)
    if inspection is not None:
        report.problems += inspection.problems
        report.notes += inspection.notes
    run = _Run(repository, options, report, progress)
    run.judge_known()
    if options.level != QUICK:
        run.read()
    else:
        run.look()
    return report


class _Run:
    """The reading of one check, part by part."""

    def __init__(
        self,
        repository: Repository,
        options: VerifyOptions,
        report: VerifyReport,
        progress: Progress,
    ) -> None:
        self._repository, self._options = repository, options
        self._report, self._progress = report, progress
        self._layout = report.layout
        self._began = to_utc_text(datetime.now(UTC))
        self._since = options.clock()
        self._history = read_checks(repository, self._layout)
        self._quick = {
            problem.key: problem.finding for problem in report.problems if problem.level == QUICK
        }
        self._still: dict[str, Finding] = {}
        self._again: tuple[str, ...] = ()
        deep = options.level == DEEP
        needs = report.inspection.needs if report.inspection is not None else None
        places = None
        known_deep = any(
            one.level == DEEP and key.startswith(self._layout.packs)
            for key, one in self._history.bad.items()
        )
        can_open = repository.keyring.can_read_data
        if report.inspection is not None and can_open and (deep or known_deep):
            backups = report.inspection.backups
            places = read_page_places(repository, self._layout, backups, progress=progress)
        self._judge = Judge(repository, self._layout, needs, places)

    def judge_known(self) -> None:
        """Read again what earlier checks found bad."""
        if not self._history.bad:
            return
        self._progress.phase(f"reading again {len(self._history.bad)} objects that were bad")
        self._still, self._again = judge_again(
            self._judge,
            self._history.bad,
            deep=self._options.level == DEEP,
            can_open=self._repository.keyring.can_read_data,
        )
        self._report.add(self._still)

    def look(self) -> None:
        """Without reading more."""
        inspection = self._report.inspection
        if inspection is None:
            return
        self._report.proved = self._proved(inspection.names)
        self._record(Check(QUICK, self._began, backups=self._report.proved))

    def read(self) -> None:
        """Read as much as is asked for, and record it."""
        options, report, layout = self._options, self._report, self._layout
        known = self._where()
        after = report.after = (known.until or "") if known is not None else ""
        round_began = known.began if known is not None else self._began
        candidates = known.backups if known is not None else self._all_backups()
        size = stored_bytes(self._repository, layout)
        most = None if options.share is None else max(1, int(size * options.share))
        deep = options.level == DEEP
        self._progress.phase("reading and opening objects" if deep else "reading objects")
        self._progress.total(size if most is None else min(size, most))
        total = report.read = Read(until=after)
        began = options.clock()
        while True:
            left = None
            if options.most_seconds is not None:
                left = options.most_seconds - (options.clock() - began)
            part = Read()
            reading = Reading(
                deep,
                after,
                None if most is None else most - total.asked_bytes,
                options.part_seconds if left is None else min(left, options.part_seconds),
                self._still.keys() | set(self._again),
                options.clock,
            )
            check = Check(options.level, self._began, after=after, round_began=round_began)
            try:
                read_objects(
                    self._repository, layout, self._judge, reading, part, progress=self._progress
                )
            except BaseException as error:
                self._stopped(check, part, candidates, error)
                raise
            self._take(part)
            after = part.until or ""
            report.round_done = part.until is None
            is_over = (
                report.round_done
                or (most is not None and total.asked_bytes >= most)
                or (
                    options.most_seconds is not None
                    and options.clock() - began >= options.most_seconds
                )
            )
            candidates = self._left(candidates)
            if report.round_done and candidates is not None:
                report.proved = self._proved(candidates)
            self._record(
                replace(
                    self._of_part(check, part, candidates),
                    stopped=not is_over,
                    backups=report.proved,
                )
            )
            if is_over:
                return

    # -- inside ---------------------------------------------------------------------------------

    def _where(self) -> Pass | None:
        """The pass to go on with: one that is made by parts, or that was stopped not long ago."""
        options = self._options
        if not options.record:
            return None
        if self._report.inspection is None:
            known = read_pass(self._repository, self._layout, options.level)
        else:
            known = self._history.passes.get(options.level)
        if known is None or known.until is None:
            return None
        if options.share is not None or options.most_seconds is not None:
            return known
        is_recent = from_utc_text(known.began) > datetime.now(UTC) - _GOES_ON
        return known if known.stopped and is_recent else None

    def _all_backups(self) -> tuple[str, ...] | None:
        inspection = self._report.inspection
        return self._left(inspection.names) if inspection is not None else None

    def _left(self, candidates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Those of which nothing was found bad so far."""
        if candidates is None or self._report.inspection is None:
            return candidates
        return self._proved(candidates)

    def _proved(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        assert self._report.inspection is not None
        there, bad = set(self._report.inspection.names), self._report.not_whole
        return tuple(name for name in candidates if name in there and name not in bad)

    def _take(self, part: Read) -> None:
        total = self._report.read
        assert total is not None
        total.until = part.until
        total.objects += part.objects
        total.bytes += part.bytes
        total.asked_bytes += part.asked_bytes
        total.bad |= part.bad
        self._report.add(part.bad)

    def _of_part(self, check: Check, part: Read, candidates: tuple[str, ...] | None) -> Check:
        return replace(
            check,
            bad={**self._quick, **self._still, **part.bad},
            until=part.until,
            candidates=candidates,
            read_objects=part.objects,
            read_bytes=part.bytes,
        )

    def _stopped(
        self,
        check: Check,
        part: Read,
        candidates: tuple[str, ...] | None,
        error: BaseException,
    ) -> None:
        """Record what was read before the error, and say so in it."""
        if not part.objects:
            said = "What was read before is recorded; the next run goes on from there."
        else:
            self._take(part)
            made = self._of_part(check, part, self._left(candidates))
            store = self._repository.store.impatient()
            is_recorded = self._record(replace(made, stopped=True), store=store)
            said = (
                f"What was read up to {part.until} is recorded; the next run goes on from there."
                if is_recorded
                else "What was read in the last minutes could not be recorded; the next run "
                "reads it again."
            )
        if isinstance(error, StoreError):
            error.remedy = " ".join(filter(None, (error.remedy, said)))

    def _record(self, check: Check, *, store: Any = None) -> bool:
        report, inspection = self._report, self._report.inspection
        if not self._options.record:
            return False
        if len(check.bad) > MOST_OBJECTS:
            self._progress.warn(
                f"{len(check.bad)} objects are bad, and a record names {MOST_OBJECTS} of them."
            )
        check = replace(
            check,
            seconds=self._options.clock() - self._since,
            bad=check.bad or {**self._quick, **self._still},
            again=self._again,
            broken=report.broken,
            catalogue=inspection is not None,
        )
        repository = self._repository if store is None else self._repository._replace(store=store)
        names = inspection.names if inspection is not None else ()
        try:
            record_check(repository, self._layout, check, by=self._options.by, known=names)
        except StoreError as error:
            self._progress.warn(f"What was found could not be recorded. {error}")
            return False
        return True
