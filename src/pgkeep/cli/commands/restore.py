"""``pgkeep restore``: a cluster comes back, into a directory, as it was at any moment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.render import pairs
from pgkeep.cli.session import open_repo
from pgkeep.cli.store_settings import left_for_server
from pgkeep.cli.systems import add_system_argument, restorable_layout
from pgkeep.config import Settings
from pgkeep.config.mirrors import MAIN
from pgkeep.errors import UsageError
from pgkeep.storage.fallback import stores_of
from pgkeep.units import format_duration, format_size, show_moment

if TYPE_CHECKING:
    from pgkeep.postgres.standby import Standby
    from pgkeep.repository.identity import Repository
    from pgkeep.restore.plan import FetchAccess, RestoreOptions, RestorePlan
    from pgkeep.restore.run import RestoreReport
    from pgkeep.restore.target import AskedTarget

EXAMPLES = (
    ("pgkeep restore --into /srv/back", "as new as the repository knows it"),
    (
        "pgkeep restore --into /srv/back --time '2026-11-20 14:03:07+01:00'",
        "as it was at a moment",
    ),
    ("pgkeep restore --into /srv/back --latest --dry-run", "only say what would be done"),
    (
        "pgkeep restore --into /srv/standby --standby --primary 'host=db1 user=replicator'",
        "a new standby",
    ),
)
ACTIONS = ("promote", "pause", "shutdown")
WAL_MODES = ("fetch", "copied")


def add_arguments(parser: ArgumentParser) -> None:
    """Where to, to when, and what then."""
    group = parser.add_argument_group("where to")
    group.add_argument(
        "--into", required=True, metavar="DIR", help="the new data directory; must be empty or new"
    )
    group.add_argument(
        "--delta",
        action="store_true",
        help="DIR may hold this cluster, stopped, or an unfinished restore of it: what is the same "
        "stays, what differs is written, and what the backup does not have is removed",
    )
    group.add_argument("--dry-run", action="store_true", help="only say what would be done")
    group.add_argument(
        "--tablespace",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="where a tablespace shall lie (default: beside the data directory); may be repeated",
    )
    group.add_argument(
        "--owner", metavar="USER", help="as root: whose the files will be (default: DIR's owner)"
    )
    _add_targets(parser)
    add_system_argument(parser)
    group = parser.add_argument_group("what then")
    group.add_argument(
        "--action",
        choices=ACTIONS,
        metavar="ACTION",
        help="when the target is reached: promote (the default), pause or shutdown",
    )
    group.add_argument(
        "--continue-archiving",
        action="store_true",
        help="it takes the original's place, and archives as the original did",
    )
    group.add_argument(
        "--standby", action="store_true", help="it follows the original, until it is promoted"
    )
    group.add_argument(
        "--primary", metavar="CONNINFO", help="whom the standby streams from: 'host=db1 user=repl'"
    )
    group.add_argument("--slot", metavar="NAME", help="the standby's slot on the primary")
    group = parser.add_argument_group("how")
    group.add_argument("--jobs", metavar="N", help="workers (PGKEEP_JOBS; one a core)")
    group.add_argument(
        "--wal",
        choices=WAL_MODES,
        metavar="MODE",
        help="fetch: the server calls pgkeep for WAL; copied: it lies in DIR beforehand "
        "(default: fetch where that works)",
    )


def _add_targets(parser: ArgumentParser) -> None:
    targets = parser.add_argument_group("to when (one of the first six)")
    one = targets.add_mutually_exclusive_group()
    one.add_argument("--latest", action="store_true", help="the end of stored WAL (the default)")
    one.add_argument("--time", metavar="MOMENT", help="a moment and its zone: 2026-11-20 14:03+01")
    one.add_argument("--lsn", metavar="LSN", help="a WAL position: 16/B374D848")
    one.add_argument("--xid", metavar="XID", help="the end of a transaction")
    one.add_argument("--name", metavar="NAME", help="a named restore point")
    one.add_argument("--immediate", action="store_true", help="as soon as it is consistent")
    targets.add_argument(
        "--exclusive", action="store_true", help="stop just before the target, not after it"
    )
    targets.add_argument("--timeline", metavar="N", help="along this timeline")
    targets.add_argument("--backup", metavar="ID", help="from this backup (default: the best one)")


def asked_target(args: Namespace) -> AskedTarget:
    """The target that the options name. Raises ``UsageError``."""
    from pgkeep.restore import target

    inclusive = not args.exclusive
    if args.exclusive and not (args.time or args.lsn or args.xid):
        raise UsageError("--exclusive goes with --time, --lsn or --xid only.")
    if args.time:
        return target.at_time(args.time, inclusive=inclusive)
    if args.lsn:
        return target.at_lsn(args.lsn, inclusive=inclusive)
    if args.xid:
        return target.at_xid(args.xid, inclusive=inclusive)
    if args.name:
        return target.at_name(args.name)
    return target.immediate() if args.immediate else target.latest()


def restore_options(settings: Settings, args: Namespace) -> RestoreOptions:
    """The options as the operation wants them. Raises ``UsageError``."""
    from pgkeep.restore.plan import RestoreOptions

    if args.timeline is not None and not (args.timeline.isdecimal() and int(args.timeline) > 0):
        raise UsageError(
            f"{args.timeline!r} is not a timeline.", remedy="Write its number, for example 2."
        )
    standby = _standby(args)
    return RestoreOptions(
        into=Path(args.into).absolute(),
        target=asked_target(args),
        timeline=int(args.timeline) if args.timeline else None,
        backup=args.backup,
        action=args.action or "promote",
        continue_archiving=args.continue_archiving,
        wal=args.wal,
        jobs=settings.jobs,
        owner=args.owner,
        tablespaces=dict(_tablespace(text) for text in args.tablespace),
        standby=standby,
        delta=args.delta,
    )


def _standby(args: Namespace) -> Standby | None:
    from pgkeep.postgres.standby import Standby

    if not args.standby:
        if args.primary or args.slot:
            raise UsageError("--primary and --slot go with --standby.")
        return None
    no_sense = [
        name
        for name in ("time", "lsn", "xid", "name", "immediate", "action", "continue_archiving")
        if getattr(args, name)
    ]
    if no_sense:
        raise UsageError(
            f"--{no_sense[0].replace('_', '-')} does not go with --standby.",
            why="A standby follows the original until it is promoted, and has no target.",
            remedy="Leave one of the two out.",
        )
    try:
        return Standby(args.primary or "", args.slot or "")
    except ValueError as error:
        raise UsageError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error


def _tablespace(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not (name and equals and place.startswith("/")):
        raise UsageError(
            f"--tablespace {text} is not understood.",
            remedy="Write its name or OID and an absolute path: --tablespace fast=/mnt/fast",
        )
    return name, place


def fetch_access(context: Context, repository: Repository) -> FetchAccess:
    """How the restored server may call this program, and what its settings file would hold."""
    from pgkeep.restore.plan import FetchAccess

    settings = context.settings
    identity = settings.file_of("identity")
    obstacle = None
    if repository.keyring.sealed and identity is None:
        obstacle = "the identity was given as a text"
        if settings.identity is None:
            obstacle = "the passphrase is not left where the server could read it"
    first, *others = _answering(context, repository)
    values = {"cluster": settings.cluster, **first[1]}
    return FetchAccess(
        context.program,
        values,
        Path(identity) if identity else None,
        obstacle,
        mirrors=dict(others),
    )


def _answering(context: Context, repository: Repository) -> list[tuple[str, dict[str, str]]]:
    """What the server has to be told of each repository that was read.

    One that is away is left out: the restore was planned without it, and the server could never
    be told that a file does not exist while one is silent that may have it.
    """
    settings = context.settings
    urls = [store.url for store in stores_of(repository.store)]
    named = {MAIN: settings, **settings.mirrors}
    names = context.members or (MAIN,)
    return [
        (name, {"repo": url, **left_for_server(named[name])})
        for name, url in zip(names, urls, strict=True)
    ]


def run(context: Context, args: Namespace) -> int:
    """Plan; then show the plan, or do what it says and show what there is now."""
    from pgkeep.cli.privileges import state_owner
    from pgkeep.restore.run import plan_restore, run_restore

    settings = context.settings
    options = restore_options(settings, args)
    repository = open_repo(context, state_owner(context))
    layout = restorable_layout(settings, repository, system=args.system)
    access = fetch_access(context, repository)
    with context.progress() as progress:
        plan = plan_restore(repository, layout, options, access=access, progress=progress)
        if args.dry_run:
            context.output.result(
                {**plan.as_dict(), "dry_run": True}, lambda: _render_plan(context, plan)
            )
            return 0
        if not context.output.json:
            _render_plan(context, plan)
            context.output.stdout.flush()
        context.log.info("restore-begins", backup=plan.resolution.backup.id, into=options.into)
        report = run_restore(repository, layout, plan, access=access, progress=progress)
    context.log.info("restored", files=report.files, bytes=report.written_bytes)
    context.output.result(
        {**report.as_dict(), "dry_run": False, "progress_warnings": progress.warnings},
        lambda: _render_report(context, report),
    )
    return 0


def _render_plan(context: Context, plan: RestorePlan) -> None:
    resolution, head = plan.resolution, plan.resolution.backup.head
    wal = "copied there beforehand" if plan.wal_mode == "copied" else "fetched by the server"
    rows = [
        (
            "Plan",
            f"backup {head.backup} ({head.kind}), then WAL of timeline {resolution.timeline} "
            f"to {_where_to(plan)}",
        ),
        ("Reaches", show_moment(resolution.reaches) if resolution.reaches else ""),
        (
            "Size",
            f"{format_size(plan.write_bytes)} to write from {format_size(plan.stored_bytes)} "
            f"stored, {format_size(plan.wal_bytes)} of WAL · {format_size(plan.free_bytes)} free",
        ),
        ("WAL", f"{wal} ({plan.wal_mode_reason})"),
        *(("Note", note) for note in (*plan.notes, *resolution.notes)),
        *(("Warning", text) for text in _warnings_before(context, plan)),
    ]
    for line in pairs(rows, indent=0):
        context.output.say(line)


def _where_to(plan: RestorePlan) -> str:
    from pgkeep.restore.plan import describe_target

    if plan.options.standby is None:
        return describe_target(plan.options.target.target)
    return "the end, and on for as long as it is a standby"


def _warnings_before(context: Context, plan: RestorePlan) -> tuple[str, ...]:
    """The real run warns as it begins; a dry run has no such moment."""
    return (*plan.warnings, *plan.resolution.warnings) if context.args.dry_run else ()


def _render_report(context: Context, report: RestoreReport) -> None:
    say = context.output.say
    options = report.plan.options
    say(f"Done in {format_duration(report.seconds)}. {_what_then(options)}")
    rows = [("start it", report.start)]
    if options.standby is not None:
        say("Once promoted it archives as the original did, on a timeline of its own.")
    elif options.continue_archiving:
        say("It takes the original's place, and archives as the original did.")
    else:
        say("It is a copy: it archives nothing and disturbs nobody.")
    for line in pairs(rows):
        say(line)
    if report.original_runs:
        say("The original runs on this machine, so the copy is started on another port.")
    if report.adopt:
        say("To make it the original, when the old one is stopped for good:")
    for command in report.adopt:
        say(f"  {command}")
    if report.failed_pages:
        shown = ", ".join(f"{path} page {page}" for path, page in report.failed_pages[:10])
        context.output.warn(
            f"{len(report.failed_pages)} pages were damaged when they were backed up: {shown}"
        )


def _what_then(options: RestoreOptions) -> str:
    from pgkeep.restore.plan import describe_target

    once = f"Once started, the cluster in {options.into}"
    if options.standby is not None:
        primary = options.standby.primary
        whom = f"its primary ({primary}) and the archive" if primary else "the archive"
        return f"{once} follows {whom} until it is promoted."
    then = {
        "promote": "accept writes",
        "pause": "wait, readable, for a decision",
        "shutdown": "shut down",
    }
    target = describe_target(options.target.target)
    return f"{once} recovers to {target}, and will then {then[options.action]}."
