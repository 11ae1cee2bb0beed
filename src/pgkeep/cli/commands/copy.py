"""``pgkeep copy``: make repositories alike, or move house."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.copying_dumps import copy_dumps_to, dumps_document, dumps_lines
from pgkeep.cli.session import open_host_state, unlock_of, writer_facts
from pgkeep.cli.systems import all_layouts
from pgkeep.config import Settings
from pgkeep.errors import MirrorsDiffer, NoSuchBackup, PgkeepError, UsageError
from pgkeep.repository.identity import open_repository
from pgkeep.repository.layout import Layout
from pgkeep.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgkeep.cli.members import Members
    from pgkeep.dump.mirror import DumpCopies
    from pgkeep.mirror.catch_up import CopyReport
    from pgkeep.mirror.compare import Difference
    from pgkeep.mirror.member import Member
    from pgkeep.repository.identity import Repository

EXAMPLES = (
    ("pgkeep copy", "give every repository what the others have"),
    ("pgkeep copy --to s3://new-bucket/pgkeep", "move house: an empty place becomes a mirror"),
    ("pgkeep copy --dry-run", "only say what each lacks"),
    ("pgkeep copy --compare", "also read what both sides have, and say what differs"),
)
_SHOWN = 20


def add_arguments(parser: ArgumentParser) -> None:
    """From where, to where, and what."""
    group = parser.add_argument_group("what to copy")
    group.add_argument(
        "--from",
        dest="source",
        metavar="NAME",
        help="only from this repository, by its name (main is that of PGKEEP_REPO) or URL",
    )
    group.add_argument("--to", metavar="NAME", help="only to this one, by its name or URL")
    group.add_argument(
        "--backup",
        action="append",
        default=[],
        metavar="ID",
        help="of backups this one only, with all WAL; may be repeated",
    )
    group.add_argument("--dry-run", action="store_true", help="only say what would be copied")
    group.add_argument(
        "--compare",
        action="store_true",
        help="also read every object that both sides have; without it their sizes are compared",
    )


def run(context: Context, args: Namespace) -> int:
    """Copy, show what was done, and say by the exit code whether all are alike now."""
    from pgkeep.cli.mirroring import make_alike
    from pgkeep.mirror.catch_up import CopyRequest
    from pgkeep.mirror.compare import compare

    settings = context.settings
    with context.progress() as progress:
        members, targets = _members(context, args)
        made = [] if args.dry_run else _join(members.present, targets)
        repository = _opened(context, members)
        layouts = all_layouts(settings, repository)
        present = [one for one in members.present if one.name not in _unmade(members, targets)]
        _check_backups(args.backup, present, layouts)
        request = CopyRequest(
            repository.keyring,
            writer_facts(),
            args.backup or None,
            args.dry_run,
            mend=True,
            identity=repository.identity,
        )
        reports, failed = make_alike(
            context, members.present, layouts, request, targets=targets, progress=progress
        )
        for report in reports:
            report.made = report.target.name in made
        dumps = {} if args.backup else copy_dumps_to(context, present, repository, reports, failed)
        found = [
            one
            for report in reports
            if report.target.name not in failed
            for one in compare(
                report.target,
                [member for member in present if member.name != report.target.name],
                layouts,
                keyring=repository.keyring,
                contents=args.compare,
                progress=progress,
            )
        ]
    document = {
        "dry_run": args.dry_run,
        "targets": [
            {
                **report.as_dict(),
                **dumps_document(dumps.get(report.target.name)),
            }
            for report in reports
        ],
        "away": [one.name for one in members.away],
        "differences": [one._asdict() for one in found],
    }
    context.output.result(document, lambda: _render(context, args, reports, found, dumps))
    failed |= {one.name: one.error for one in members.away}
    return _judge(context, reports, failed, found)


def _members(context: Context, args: Namespace) -> tuple[Members, set[str]]:
    """The repositories that answer, and the names of those to copy to."""
    from pgkeep.cli.members import MIRROR_PATIENCE_SECONDS, identify, settings_by_name
    from pgkeep.cli.outages import PATIENCE_SECONDS

    named = settings_by_name(context.settings)
    source = _named(context, named, args.source) if args.source else None
    target = _named(context, named, args.to) if args.to else None
    if source is not None and source == target:
        raise UsageError("--from and --to name the same repository.")
    sources = {source: named[source]} if source else {**named}
    if source and not target:
        target = next((name for name in named if name != source), None) if len(named) == 2 else None
        if target is None:
            raise UsageError("--from needs --to.", remedy="Name the repository to copy to.")
    if len({*sources, *([target] if target else [])}) < 2:
        raise UsageError(
            "There is only one repository, and nothing to copy to.",
            remedy="Name a mirror in the settings, or write: pgkeep copy --to URL",
        )
    if target is not None:
        sources.pop(target, None)
    # An empty place among the targets is no repository yet: it is looked at apart.
    seconds = PATIENCE_SECONDS if len(named) == 1 else MIRROR_PATIENCE_SECONDS
    members = identify(context, context.owner_uid, sources, seconds=seconds)
    if target is None:
        # Only what is named is made anew: elsewhere an empty place is rather a lost mount.
        return members, {member.name for member in members.present}
    return _with_target(context, members, target, named[target], seconds), {target}


def _named(context: Context, named: dict[str, Settings], text: str) -> str:
    """The name of a repository that an option names; a URL is added to ``named``."""
    from pgkeep.config.sources import settings_of_url

    if text in named:
        return text
    for name, settings in named.items():
        if settings.repo == text:
            return name
    if "/" not in text:
        known = ", ".join(named)
        raise UsageError(
            f"There is no repository {text!r}.", remedy=f"Known are: {known}; or a URL."
        )
    named[text] = settings_of_url(context.environ, text)
    return text


def _with_target(
    context: Context, members: Members, name: str, settings: Settings, seconds: float
) -> Members:
    """The members and the one to copy to, in which nothing may have been made yet."""
    from pgkeep.cli.members import check_member_pin, open_member
    from pgkeep.mirror.member import check_same_identity, read_member_identity

    member = open_member(context, name, settings, seconds=seconds, create=True)
    found = read_member_identity(member)
    if found is not None:
        check_same_identity(found, member, members.identity, str(members.present[0]))
        host = open_host_state(context.settings, context.owner_uid)
        check_member_pin(host, member, found)
    return members._replace(present=(*members.present, member))


def _join(present: Sequence[Member], targets: set[str]) -> set[str]:
    """Make those targets mirrors that are nothing yet; their names."""
    from pgkeep.mirror.member import join, read_member_identity

    fresh = {one.name for one in present if read_member_identity(one) is None}
    sources = [one for one in present if one.name not in fresh]
    made = set()
    for one in present:
        if one.name in targets and join(one, [s for s in sources if s.name != one.name] or sources):
            made.add(one.name)
    return made


def _unmade(members: Members, targets: set[str]) -> set[str]:
    from pgkeep.mirror.member import read_member_identity

    return {
        one.name
        for one in members.present
        if one.name in targets and read_member_identity(one) is None
    }


def _opened(context: Context, members: Members) -> Repository:
    """What all of them have, with the keys that are at hand."""
    from pgkeep.cli.members import reading_store

    host = open_host_state(context.settings, context.owner_uid)
    store = reading_store(context, members)
    return open_repository(store, host, unlock=unlock_of(context.settings))


def _check_backups(
    wanted: Sequence[str], members: Sequence[Member], layouts: Sequence[Layout]
) -> None:
    """Raise ``NoSuchBackup`` for one that no repository has."""
    from pgkeep.mirror.listing import holdings

    if not wanted:
        return
    there: set[str] = set()
    for layout in layouts:
        for member in members:
            there |= holdings(member, layout).backups(layout)
    for backup in wanted:
        if backup not in there:
            raise NoSuchBackup(
                f"There is no backup {backup!r} in any repository.", remedy="pgkeep list shows all."
            )


def _render(
    context: Context,
    args: Namespace,
    reports: Sequence[CopyReport],
    found: Sequence[Difference],
    dumps: Mapping[str, DumpCopies],
) -> None:
    say = context.output.say
    verb = "lacks" if args.dry_run else "got"
    for report in reports:
        if report.made:
            say(f"{report.target} is a mirror now.")
        lines = dumps_lines(dumps.get(report.target.name), verb)
        for line in lines:
            say(f"{report.target} {line}")
        if not report.objects:
            if lines:
                continue
            say(f"{report.target} {'lacks nothing' if args.dry_run else 'lacked nothing'}.")
            continue
        say(
            f"{report.target} {verb} {report.objects} objects, {format_size(report.bytes)}: "
            f"{len(report.backups)} backups, {report.packs} packs, {report.wal_files} WAL files."
        )
        if report.mended:
            say(f"  {report.mended} of them {'are' if args.dry_run else 'were'} damaged there.")
    for report in reports:
        for what, why in report.problems[:_SHOWN]:
            context.output.warn(f"{report.target.name} did not get {what}: {why}")
    for one in found[:_SHOWN]:
        context.output.warn(f"{one.key}: {one.what}")


def _judge(
    context: Context,
    reports: Sequence[CopyReport],
    failed: dict[str, PgkeepError],
    found: Sequence[Difference],
) -> int:
    """The exit code: whether each target has all that the others have, and nothing else."""
    count = sum(len(report.problems) for report in reports)
    if not (failed or count or found):
        return 0
    parts = []
    if failed:
        parts.append(f"not caught up: {', '.join(failed)}")
    if count:
        parts.append(f"{count} objects or backups could not be copied")
    if found:
        parts.append(f"{len(found)} objects differ")
    error = MirrorsDiffer(
        f"The repositories are not alike: {'; '.join(parts)}.",
        why=next(iter(failed.values())).what if failed else None,
        remedy="See what is named above, and run pgkeep copy again.",
    )
    if not context.output.json:
        from pgkeep.cli.failure import error_text

        print(error_text(error), file=context.output.stderr)
    return error.exit_code
