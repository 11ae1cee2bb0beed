"""What ``pgkeep restore`` can be told, and what is made of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.systems import add_system_argument
from pgkeep.config import Settings
from pgkeep.errors import UsageError

if TYPE_CHECKING:
    from pgkeep.postgres.standby import Standby
    from pgkeep.restore.plan import RestoreOptions
    from pgkeep.restore.target import AskedTarget

ACTIONS = ("promote", "pause", "shutdown")
CHECKS = ("quick", "full")
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
    _add_databases(parser)
    group = parser.add_argument_group("what then")
    group.add_argument(
        "--action",
        choices=ACTIONS,
        metavar="ACTION",
        help="when the target is reached: promote (the default), pause or shutdown",
    )
    group.add_argument(
        "--check",
        nargs="?",
        const="quick",
        choices=CHECKS,
        metavar="DEPTH",
        help="start what was restored where nobody else finds it, let it recover, look at every "
        "database (quick, the default; full: at every table and index), and stop it; archives "
        "nothing, but with promote recovery has ended then",
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


def _add_databases(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what of it")
    group.add_argument(
        "--only-database",
        action="append",
        default=[],
        metavar="NAME",
        help="restore this database, and leave others out: those cannot be used, and are to be "
        "dropped afterwards; may be repeated",
    )
    group.add_argument(
        "--exclude-database",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this database out, likewise; may be repeated",
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
        only_databases=tuple(args.only_database),
        exclude_databases=tuple(args.exclude_database),
        check=args.check,
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
