"""``pgkeep dump expire``: delete the dumps that the policy does not keep."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import (
    NOT_FINISHED,
    One,
    add_only_argument,
    check_failed,
    in_all,
    open_each,
)
from pgkeep.cli.session import writer_facts
from pgkeep.cli.systems import all_layouts
from pgkeep.units import format_size

if TYPE_CHECKING:
    from pgkeep.dump.expire import DumpExpiry

EXAMPLES = (
    ("pgkeep dump expire --dry-run", "say of each dump whether it is kept, and why"),
    ("pgkeep dump expire", "do it, at once and for good"),
    ("pgkeep dump expire --keep '14 days, 3 dumps, 12 monthly'", "by another policy"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """By which policy, and whether for real."""
    parser.add_argument(
        "--keep",
        dest="dump_keep",
        metavar="POLICY",
        help="what is kept (PGKEEP_DUMP_KEEP; 30 days, 2 dumps)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be done, and write nothing"
    )
    add_only_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Do what is due in each repository, and show every decision."""
    from pgkeep.dump.expire import expire_dumps

    policy = context.settings.dump_keep
    each = open_each(context, args.only)
    with context.progress() as progress:
        found, failed = in_all(
            each,
            lambda one: expire_dumps(
                one.repository,
                all_layouts(context.settings, one.repository),
                policy,
                by=writer_facts(),
                progress=progress,
                dry_run=args.dry_run,
            ),
        )
    document = {
        "dry_run": args.dry_run,
        "keep": policy.sentence("dumps"),
        "repositories": [
            {"name": one.name, "systems": [*map(_document, reports)]} for one, reports in found
        ],
        "failed": {name: error.as_dict() for name, error in failed.items()},
    }
    context.output.result(document, lambda: _render(context, found))
    check_failed(failed, NOT_FINISHED, remedy="Run the command again when that is mended.")
    return 0


def _document(report: DumpExpiry) -> dict[str, Any]:
    return {
        "system_identifier": str(report.layout.system_identifier),
        "decisions": [
            {"dump": one.backup, "kept": one.is_kept, "why": list(one.why)}
            for one in report.decisions
        ],
        "deleted": report.deleted,
        "deleted_bytes": report.deleted_bytes,
        "unfinished_deleted": report.litter,
        "leftovers_deleted": report.leftovers,
        "leftover_bytes": report.leftover_bytes,
    }


def _render(context: Context, found: list[tuple[One, list[DumpExpiry]]]) -> None:
    say, would = context.output.say, "would be " if context.args.dry_run else ""
    policy = context.settings.dump_keep.sentence("dumps")
    for one, reports in found:
        for report in reports:
            place = f"{report.layout.cluster}, system {report.layout.system_identifier}"
            say(f"{place}, in {one.name}: keep {policy}")
            context.output.table(
                ("  dump", "", "why"),
                [
                    (f"  {d.backup}", "kept" if d.is_kept else "expires", _why(d.why))
                    for d in reversed(report.decisions)
                ],
            )
            if report.deleted:
                size = format_size(report.deleted_bytes)
                say(f"  {len(report.deleted)} {would}deleted, {size}")
            if report.litter:
                say(f"  {len(report.litter)} unfinished {would}deleted")
            if report.leftovers:
                size = format_size(report.leftover_bytes)
                say(f"  {report.leftovers} objects of attempts that failed {would}deleted, {size}")


def _why(reasons: tuple[str, ...]) -> str:
    """The rules speak of backups."""
    text = "; ".join(reasons)
    return text.replace("no backup is good", "no dump is complete").replace(
        "not good", "it lacks something"
    )
