"""``pgkeep verify``: is everything that should be restorable really there?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pgkeep.cli.context import Context
from pgkeep.cli.session import writer_facts
from pgkeep.cli.systems import system_layout
from pgkeep.errors import (
    IdentityNeeded,
    MirrorsDiffer,
    PgkeepError,
    ProblemsFound,
    UnknownSystem,
    UsageError,
)
from pgkeep.units import format_size, show_moment

if TYPE_CHECKING:
    from pgkeep.cli.verifying import Opened
    from pgkeep.mirror.lacking import Lack
    from pgkeep.mirror.member import Member
    from pgkeep.repository.layout import Layout
    from pgkeep.seal.keyring import Keyring
    from pgkeep.verify.problem import Problem
    from pgkeep.verify.report import VerifyOptions, VerifyReport

EXAMPLES = (
    ("pgkeep verify", "is everything there that backups and recovery windows need?"),
    ("pgkeep verify --scrub --sample 5", "also read 5 % of it; the next run reads the next 5 %"),
    ("pgkeep verify --deep --max-time 3600", "also open what is read, for an hour"),
)


@dataclass
class Found:
    """What was found: reports and what is wrong with the first records, by repository as it is
    shown; what could not be checked, by name; and what one repository has and another lacks."""

    reports: list[tuple[str, VerifyReport]] = field(default_factory=list)
    root: list[tuple[str, Problem]] = field(default_factory=list)
    failed: dict[str, PgkeepError] = field(default_factory=dict)
    lacks: list[Lack] = field(default_factory=list)


def add_arguments(parser: ArgumentParser) -> None:
    """How deep, how much, and where."""
    group = parser.add_argument_group("how deep")
    level = group.add_mutually_exclusive_group()
    level.add_argument(
        "--scrub", action="store_true", help="read objects and compare their hashes; needs no key"
    )
    level.add_argument(
        "--deep", action="store_true", help="also open them and compare pages; needs the identity"
    )
    group.add_argument(
        "--sample",
        type=float,
        metavar="PERCENT",
        help="read so much of it now, what was not read for longest first",
    )
    group.add_argument(
        "--max-time", type=float, metavar="SECONDS", help="read for so long; the next run goes on"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--only", metavar="NAME", help="only this repository (main, or a mirror's)")
    where.add_argument("--system", metavar="ID", help="only this system; without it, all")


def run(context: Context, args: Namespace) -> int:
    """Check each repository by itself, show what was found, and say it by the exit code."""
    from pgkeep.cli.verifying import choose, open_for_check

    options = _options(args)
    found = Found()
    with context.progress() as progress:
        opened = open_for_check(context)
        chosen = choose(opened, args.only)
        keyring = opened.repository.keyring
        if options.level == "deep" and opened.has_keys and not keyring.can_read_data:
            raise IdentityNeeded(
                "A deep check opens pages and WAL, and the key for that is not on this host.",
                remedy="Set PGKEEP_IDENTITY, or use --scrub, which needs no key.",
            )
        if not opened.has_keys:
            level = "quick" if options.level == "quick" else "scrub"
            options = replace(options, level=level, record=False)
        layouts: dict[int, Layout] = {}
        for member in chosen:
            found.root += [(str(member), one) for one in opened.root[member.name]]
            try:
                for layout in _layouts(context, opened, member):
                    layouts[layout.system_identifier] = layout
                    report = _verify(opened, member, layout, options, progress)
                    _verify_dumps(context, opened, member, layout, options, report, progress)
                    found.reports.append((str(member), report))
            except PgkeepError as error:
                if len(opened.members) == 1 or isinstance(error, IdentityNeeded):
                    raise
                found.failed[member.name] = error
                progress.warn(f"{member} could not be checked. {error}")
        if len(chosen) > 1:
            found.lacks = _lacking(chosen, found.failed, [*layouts.values()], keyring)
    if not args.only:
        found.failed |= opened.away
    context.output.result(_document(found, options), lambda: _render(context, found))
    return _judge(context, found, sealed=opened.has_keys and not keyring.can_read_metadata)


def _options(args: Namespace) -> VerifyOptions:
    from pgkeep.verify.report import VerifyOptions

    level = "deep" if args.deep else "scrub" if args.scrub else "quick"
    limits = (args.sample, args.max_time)
    if level == "quick" and limits != (None, None):
        raise UsageError("--sample and --max-time go with --scrub or --deep.")
    if args.sample is not None and not 0 < args.sample <= 100:
        raise UsageError("--sample is a percentage above 0, up to 100.")
    if args.max_time is not None and not args.max_time > 0:
        raise UsageError("--max-time is a number of seconds above 0.")
    share = None if args.sample is None else args.sample / 100
    return VerifyOptions(level, writer_facts(), share, args.max_time)


def _layouts(context: Context, opened: Opened, member: Member) -> list[Layout]:
    """The systems to check. Raises ``UnknownSystem``, ``UsageError``."""
    from pgkeep.verify.root_records import Without, find_layouts

    settings, system = context.settings, context.args.system
    problems = opened.root[member.name]
    found = find_layouts(member.store, settings.cluster, problems)
    if system:
        wanted = [one for one in found if str(one.system_identifier) == system]
        readable = Without(member.store, {one.key for one in problems})
        own = opened.repository._replace(store=readable)
        return wanted or [system_layout(settings, own, system=system)]
    if not found and not problems:
        raise UnknownSystem(
            f"The cluster {settings.cluster!r} is not known in {member.url}.",
            remedy="Check PGKEEP_CLUSTER, or run pgkeep init on the database host.",
        )
    return found


def _verify(
    opened: Opened, member: Member, layout: Layout, options: VerifyOptions, progress: Any
) -> VerifyReport:
    from pgkeep.verify.run import verify

    own = opened.repository._replace(store=member.store)
    return verify(own, layout, options, progress=progress)


def _verify_dumps(
    context: Context,
    opened: Opened,
    member: Member,
    layout: Layout,
    options: VerifyOptions,
    report: VerifyReport,
    progress: Any,
) -> None:
    """Dumps at the same level; what is wrong with them is added to the report."""
    from pathlib import Path

    from pgkeep.dump.check import DumpCheckOptions, check_dumps
    from pgkeep.verify.problem import Problem

    own = opened.repository._replace(store=member.store)
    if not opened.has_keys or not own.keyring.can_read_metadata:
        return
    scratch = context.settings.scratch
    asked = DumpCheckOptions(
        options.level,
        context.environ,
        context.settings.pg_bin,
        Path(scratch) if scratch else None,
        options.share,
        options.most_seconds,
    )
    found = check_dumps(own, layout, asked, progress=progress)
    for key, what, dump in found.problems:
        effect = (f"breaks the dump {dump}",)
        report.problems.append(Problem(key, what, windows=effect, level=options.level))
    if found.dumps:
        read = f", {len(found.read)} read" if options.level != "quick" else ""
        report.notes.append(f"{found.dumps} dumps looked at{read}")
    report.notes += found.notes


def _lacking(
    chosen: Sequence[Member],
    failed: Mapping[str, PgkeepError],
    layouts: Sequence[Layout],
    keyring: Keyring,
) -> list[Lack]:
    from pgkeep.mirror.lacking import lacking

    among = [one for one in chosen if one.name not in failed]
    return lacking(among, layouts, keyring, now=datetime.now(UTC))


def _document(found: Found, options: VerifyOptions) -> dict[str, Any]:
    return {
        "level": options.level,
        "checks": [
            {
                "repository": name,
                "system_identifier": str(report.layout.system_identifier),
                "catalogue": report.inspection is not None,
                "good_backups": list(report.proved),
                "read_after": report.after,
                "read_objects": report.read.objects if report.read else 0,
                "read_bytes": report.read.bytes if report.read else 0,
                "everything_read": report.round_done,
                "problems": [problem.as_dict() for problem in report.problems],
                "notes": report.notes,
            }
            for name, report in found.reports
        ],
        "records": [{"repository": name, **one.as_dict()} for name, one in found.root],
        "lacking": [
            {
                "repository": one.member.name,
                **({"wal": one.name, "files": one.files} if one.files else {"backup": one.name}),
                "in": [other.name for other in one.others],
            }
            for one in found.lacks
        ],
        "failed": {name: error.as_dict() for name, error in found.failed.items()},
    }


def _render(context: Context, found: Found) -> None:
    say = context.output.say
    for name, one in found.root:
        say(f"In {name}")
        say(f"  ! {one.key}: {one.what}")
    for name, report in found.reports:
        say(f"{report.layout.cluster}, system {report.layout.system_identifier}, in {name}")
        for line in _lines(report):
            say(f"  {line}")
    for lack in found.lacks:
        say(f"! {lack}.")


def _lines(report: VerifyReport) -> Iterator[str]:
    inspection = report.inspection
    if inspection is None:
        yield "Not checked: whether all packs are there that backups need, and WAL without"
        yield "gaps. That takes the metadata key: set PGKEEP_IDENTITY, or run pgkeep init here."
    else:
        yield f"{len(inspection.backups)} backups, {len(inspection.needs)} packs looked for"
        for window in inspection.windows:
            begin, end = show_moment(window.from_moment), show_moment(window.to_moment)
            yield f"any moment from {begin} to {end}, timeline {int(window.timeline)}"
    if report.read is not None:
        begin = "from where the last check ended " if report.after else ""
        rest = "to the end" if report.round_done else "the next run goes on from there"
        size = format_size(report.read.bytes)
        yield f"{report.read.objects} objects read, {size}: {begin}{rest}"
    for note in report.notes:
        yield f"- {note}"
    for problem in report.problems:
        yield f"! {problem}"
    if not report.problems:
        yield "No problem was found."


def _judge(context: Context, found: Found, *, sealed: bool) -> int:
    error = _problems_error(found) or _failed_error(found) or _lacks_error(found)
    if error is None and sealed and all(report.read is None for _, report in found.reports):
        error = IdentityNeeded(
            "Nothing could be checked: that takes the metadata key, which is not on this host.",
            remedy="Set PGKEEP_IDENTITY, or use --scrub, which needs no key.",
        )
    if error is None:
        return 0
    if not context.output.json:
        from pgkeep.cli.failure import error_text

        print(error_text(error), file=context.output.stderr)
    return error.exit_code


def _problems_error(found: Found) -> PgkeepError | None:
    count = sum(len(report.problems) for _, report in found.reports) + len(found.root)
    if not count:
        return None
    broken = {name for _, report in found.reports for name in report.broken}
    return ProblemsFound(
        f"{count} {'problem was' if count == 1 else 'problems were'} found; "
        f"{len(broken)} backup{'' if len(broken) == 1 else 's'} cannot be restored from where "
        "they were found.",
        why="Objects are missing, or are not what was stored.",
        remedy="Run pgkeep backup: it stores again what the server still has. With mirrors, run "
        "pgkeep copy: it brings back what is missing here and there elsewhere, and what is "
        "damaged once that is deleted.",
    )


def _failed_error(found: Found) -> PgkeepError | None:
    if not found.failed:
        return None
    first = next(iter(found.failed.values()))
    if len(found.failed) == 1:
        return first
    return MirrorsDiffer(f"{', '.join(found.failed)} could not be checked.", why=first.what)


def _lacks_error(found: Found) -> PgkeepError | None:
    if not found.lacks:
        return None
    names = sorted({one.member.name for one in found.lacks})
    return MirrorsDiffer(
        f"{', '.join(names)} {'lacks' if len(names) == 1 else 'lack'} what others have.",
        why="It is named above. What is there was checked, and is as it should be.",
        remedy="Run pgkeep copy.",
    )
