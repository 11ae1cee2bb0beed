"""``pgkeep undelete``: take backups out of the trash."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence

from pgkeep.cli.by_hand import in_each
from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import One, add_only_argument
from pgkeep.cli.session import writer_facts
from pgkeep.cli.systems import add_system_argument
from pgkeep.repository.layout import Layout

EXAMPLES = (("pgkeep undelete 20261120T020004Z", "as if it had never been thrown away"),)


def add_arguments(parser: ArgumentParser) -> None:
    """Which backups."""
    parser.add_argument(
        "backup", metavar="ID", nargs="+", help="its name, as list --deleted shows it"
    )
    add_only_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Out of the trash, in each repository that has it there."""
    from pgkeep.keep.by_hand import undelete

    def act(one: One, layout: Layout, backups: Sequence[str]) -> Collection[str]:
        return undelete(one.repository, layout, backups, by=writer_facts())

    return in_each(
        context,
        act,
        args.backup,
        said="Back from the trash: {}",
        nothing="Was not in the trash: {}",
    )
