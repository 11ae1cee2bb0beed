"""``pgkeep release``: end the hold of backups."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence

from pgkeep.cli.by_hand import in_each
from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import One, add_only_argument
from pgkeep.cli.session import writer_facts
from pgkeep.cli.systems import add_system_argument
from pgkeep.repository.layout import Layout

EXAMPLES = (("pgkeep release 20261120T020004Z", "from here on the policy decides again"),)


def add_arguments(parser: ArgumentParser) -> None:
    """Which backups."""
    parser.add_argument(
        "backup", metavar="ID", nargs="+", help="its name, an unmistakable beginning, or latest"
    )
    add_only_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Release them in each repository that has them."""
    from pgkeep.keep.by_hand import release

    def act(one: One, layout: Layout, backups: Sequence[str]) -> Collection[str]:
        return release(one.repository, layout, backups, by=writer_facts())

    return in_each(context, act, args.backup, said="Released: {}", nothing="Was not held: {}")
