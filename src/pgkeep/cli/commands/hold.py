"""``pgkeep hold``: keep backups, whatever the policy says."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence

from pgkeep.cli.by_hand import in_each
from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import One, add_only_argument
from pgkeep.cli.session import writer_facts
from pgkeep.cli.systems import add_system_argument
from pgkeep.repository.layout import Layout

EXAMPLES = (("pgkeep hold latest --note 'before the move'", "until pgkeep release"),)


def add_arguments(parser: ArgumentParser) -> None:
    """Which backups, and why."""
    parser.add_argument(
        "backup", metavar="ID", nargs="+", help="its name, an unmistakable beginning, or latest"
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="why; shown by list")
    add_only_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Hold them in each repository that has them."""
    from pgkeep.keep.by_hand import hold

    def act(one: One, layout: Layout, backups: Sequence[str]) -> Collection[str]:
        hold(one.repository, layout, backups, reason=args.note, by=writer_facts())
        return backups

    return in_each(context, act, args.backup, said="Held: {}")
