"""``pgkeep delete``: put backups into the trash, from which they can come back for a while."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence

from pgkeep.cli.by_hand import in_each
from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import One, add_only_argument
from pgkeep.cli.session import writer_facts
from pgkeep.cli.systems import add_system_argument
from pgkeep.repository.layout import Layout
from pgkeep.units import format_duration

EXAMPLES = (
    ("pgkeep delete 20261120T020004Z", "into the trash; its bytes go with a later expire"),
    ("pgkeep delete 20261120T020004Z --dry-run", "only say whether that is possible"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Which backups."""
    parser.add_argument(
        "backup", metavar="ID", nargs="+", help="its name, or an unmistakable beginning"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_only_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Into the trash, in each repository that has it."""
    from pgkeep.keep.by_hand import delete

    def act(one: One, layout: Layout, backups: Sequence[str]) -> Collection[str]:
        return delete(
            one.repository,
            layout,
            backups,
            reason="by hand",
            by=writer_facts(),
            dry_run=args.dry_run,
        )

    grace = format_duration(context.settings.keep_grace)
    said = f"In the trash, for at least {grace}: {{}}"
    return in_each(
        context,
        act,
        args.backup,
        said="Would go into the trash: {}" if args.dry_run else said,
        nothing="Was in the trash already: {}",
    )
