"""``pgkeep dump restore``: restore a dump, or some of it, into a server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgkeep.cli.context import Context
from pgkeep.cli.dumps import add_dump_argument, view_dumps
from pgkeep.cli.session import server_access
from pgkeep.cli.systems import add_system_argument
from pgkeep.units import format_size

if TYPE_CHECKING:
    from pgkeep.dump.restore_plan import LoadPlan

EXAMPLES = (
    ("pgkeep dump restore", "the newest, all of it, into the server that PGHOST, PGPORT name"),
    (
        "pgkeep dump restore --database orders --as orders_back",
        "beside the living one",
    ),
    ("pgkeep dump restore --database orders --table invoices", "a table, into that database"),
    ("pgkeep dump restore --dry-run", "only check, and say what would be done"),
)
_ACTIONS = {
    "create": "will be created",
    "fill": "is there and empty, and will be filled",
    "add": "gets the tables",
    "clean": "loses what the dump has, and gets it back from there",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Which, what of it, and how."""
    add_dump_argument(parser)
    group = parser.add_argument_group("what")
    group.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one; may be repeated",
    )
    group.add_argument("--as", dest="rename", metavar="NAME", help="under another name")
    group.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only these tables, table or schema.table, with all that hangs on them; into a "
        "database that is there",
    )
    group.add_argument(
        "--no-globals", action="store_true", help="no roles and tablespaces, which else come first"
    )
    group.add_argument(
        "--no-owner",
        action="store_true",
        help="everything belongs to the role that restores, and nothing is granted",
    )
    group.add_argument(
        "--no-tablespaces", action="store_true", help="everything lies in the default tablespace"
    )
    group = parser.add_argument_group("how")
    group.add_argument(
        "--clean", action="store_true", help="drop what is in the way, in a database that is there"
    )
    group.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="so many at once; needs scratch space for the archive (PGKEEP_SCRATCH)",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="only check, and say what would be done"
    )
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Plan, check, do."""
    from pgkeep.dump.load import plan_restore, restore_dump
    from pgkeep.dump.restore_plan import LoadOptions
    from pgkeep.errors import UsageError

    if args.jobs < 1:
        raise UsageError("--jobs must be a number from 1 up.")
    settings = context.settings
    view = view_dumps(context, system=args.system)
    contents = view.find(args.dump).contents
    access = server_access(context)
    options = LoadOptions(
        databases=tuple(args.database),
        tables=tuple(args.table),
        rename=args.rename,
        clean=args.clean,
        jobs=args.jobs,
        with_globals=not args.no_globals,
        ownership=not args.no_owner,
        tablespaces=not args.no_tablespaces,
        programs=settings.pg_bin,
        scratch=Path(settings.scratch) if settings.scratch else None,
    )
    with context.progress() as progress:
        plan = plan_restore(view.repository, view.layout, contents, access, options)
        if not context.output.json:
            _show_plan(context, plan)
        if not args.dry_run:
            restore_dump(view.repository, view.layout, plan, access, progress=progress)
    document = {**_document(plan), "dry_run": args.dry_run, "warnings": progress.warnings}
    context.output.result(document, lambda: _render(context, plan))
    return 0


def _document(plan: LoadPlan) -> dict[str, Any]:
    return {
        "dump": plan.contents.dump,
        "databases": [
            {"database": one.file.database, "name": one.name, "action": one.action}
            for one in plan.loads
        ],
        "global_statements": len(plan.statements),
        "notes": plan.notes,
    }


def _show_plan(context: Context, plan: LoadPlan) -> None:
    say = context.output.say
    roles = {role for one in plan.statements if one.verb == "CREATE" for role in one.roles}
    if roles:
        say(f"Roles that will be created: {', '.join(sorted(roles))}")
    for one in plan.loads:
        from_ = "" if one.name == one.file.database else f" (from {one.file.database})"
        say(f"{one.name}{from_} {_ACTIONS[one.action]}: {format_size(one.file.size_bytes)} stored")
    for note in plan.notes:
        say(f"Note: {note}")
    context.output.stdout.flush()


def _render(context: Context, plan: LoadPlan) -> None:
    if context.args.dry_run:
        context.output.say("Nothing was changed (--dry-run).")
        return
    names = ", ".join(one.name for one in plan.loads)
    context.output.say(f"Restored {names} from {plan.contents.dump}.")
    context.output.say("For good plans, let the server count: vacuumdb --all --analyze-in-stages")
