"""``pgkeep verify``: is everything that should be restorable really there?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgkeep.cli.context import Context
from pgkeep.cli.session import open_host_state, unlock_of, writer_facts
from pgkeep.cli.systems import all_layouts, system_layout
from pgkeep.errors import (
    IdentityNeeded,
    MirrorsDiffer,
    PgkeepError,
    ProblemsFound,
    UsageError,
)
from pgkeep.units import format_size, show_moment

if TYPE_CHECKING:
    from pgkeep.cli.members import Members
    from pgkeep.mirror.member import Member
    from pgkeep.repository.identity import Repository
    from pgkeep.verify.run import VerifyOptions, VerifyReport

EXAMPLES = (
    ("pgkeep verify", "is everything there that backups and recovery windows need?"),
    ("pgkeep verify --scrub --sample 5", "also read 5 % of it; the next run reads the next 5 %"),
    ("pgkeep verify --deep --max-time 3600", "also open what is read, for an hour"),
)
Found = list[tuple[str, "VerifyReport"]]


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
    from pgkeep.cli.members import MIRROR_PATIENCE_SECONDS, open_members, reading_store
    from pgkeep.cli.outages import PATIENCE_SECONDS
    from pgkeep.repository.identity import open_repository

    settings = context.settings
    options = _options(args)
    seconds = MIRROR_PATIENCE_SECONDS if settings.mirrors else PATIENCE_SECONDS
    found: Found = []
    failed: dict[str, PgkeepError] = {}
    with context.progress() as progress:
        members = open_members(context, context.owner_uid, seconds=seconds)
        chosen = _chosen(members, args.only)
        host = open_host_state(settings, context.owner_uid)
        store = reading_store(context, members)
        repository = open_repository(store, host, unlock=unlock_of(settings))
        if options.level == "deep" and not repository.keyring.can_read_data:
            raise IdentityNeeded(
                "A deep check opens pages and WAL, and the key for that is not on this host.",
                remedy="Set PGKEEP_IDENTITY, or use --scrub, which needs no key.",
            )
        for member in chosen:
            try:
                found += _verify_member(context, repository, member, options, progress)
            except PgkeepError as error:
                if len(members.present) == 1 or isinstance(error, IdentityNeeded):
                    raise
                failed[member.name] = error
                progress.warn(f"{member} could not be checked. {error}")
    if not args.only:
        failed |= {one.name: one.error for one in members.away}
    context.output.result(_document(found, failed, options), lambda: _render(context, found))
    return _judge(context, found, failed, sealed=not repository.keyring.can_read_metadata)


def _options(args: Namespace) -> VerifyOptions:
    from pgkeep.verify.run import VerifyOptions

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


def _chosen(members: Members, only: str | None) -> Sequence[Member]:
    if only is None:
        return members.present
    chosen = [one for one in members.present if only in (one.name, one.url)]
    for away in members.away:
        if away.name == only:
            raise away.error
    if not chosen:
        known = ", ".join(one.name for one in members.present)
        raise UsageError(f"There is no repository {only!r}.", remedy=f"Known are: {known}.")
    return chosen


def _verify_member(
    context: Context,
    repository: Repository,
    member: Member,
    options: VerifyOptions,
    progress: Any,
) -> Found:
    from pgkeep.verify.run import verify

    settings, system = context.settings, context.args.system
    own = repository._replace(store=member.store)
    if system:
        layouts = [system_layout(settings, own, system=system)]
    else:
        layouts = all_layouts(settings, own)
    return [(str(member), verify(own, layout, options, progress=progress)) for layout in layouts]


def _document(
    found: Found, failed: dict[str, PgkeepError], options: VerifyOptions
) -> dict[str, Any]:
    return {
        "level": options.level,
        "checks": [
            {
                "repository": name,
                "system_identifier": str(report.layout.system_identifier),
                "catalogue": report.inspection is not None,
                "good_backups": list(report.proved),
                "read_objects": report.read.objects if report.read else 0,
                "read_bytes": report.read.bytes if report.read else 0,
                "everything_read": report.round_done,
                "problems": [problem.as_dict() for problem in report.problems],
            }
            for name, report in found
        ],
        "failed": {name: error.as_dict() for name, error in failed.items()},
    }


def _render(context: Context, found: Found) -> None:
    say = context.output.say
    for name, report in found:
        say(f"{report.layout.cluster}, system {report.layout.system_identifier}, in {name}")
        inspection = report.inspection
        if inspection is None:
            say("  Not checked: whether all packs are there that backups need, and WAL without")
            say(
                "  gaps. That takes the metadata key: set PGKEEP_IDENTITY, or run pgkeep init here."
            )
        else:
            say(f"  {len(inspection.backups)} backups, {len(inspection.needs)} packs looked for")
            for window in inspection.windows:
                begin, end = show_moment(window.from_moment), show_moment(window.to_moment)
                say(f"  any moment from {begin} to {end}, timeline {int(window.timeline)}")
        if report.read is not None:
            rest = "to the end" if report.round_done else "the next run goes on from there"
            size = format_size(report.read.bytes)
            say(f"  {report.read.objects} objects read, {size}: {rest}")
        for problem in report.problems:
            say(f"  ! {problem}")
        if not report.problems:
            say("  No problem was found.")


def _judge(context: Context, found: Found, failed: dict[str, PgkeepError], *, sealed: bool) -> int:
    count = sum(len(report.problems) for _, report in found)
    error: PgkeepError | None = None
    if count:
        broken = {name for _, r in found for problem in r.problems for name in problem.backups}
        error = ProblemsFound(
            f"{count} {'problem was' if count == 1 else 'problems were'} found; "
            f"{len(broken)} backups cannot be restored from where they were found.",
            why="Objects are missing, or are not what was stored.",
            remedy="Run pgkeep backup: it stores again what is bad. With mirrors, delete a bad "
            "object and run pgkeep copy, which brings it back.",
        )
    elif failed:
        first = next(iter(failed.values()))
        error = (
            first
            if len(failed) == 1
            else MirrorsDiffer(f"{', '.join(failed)} could not be checked.", why=first.what)
        )
    elif sealed and all(report.read is None for _, report in found):
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
