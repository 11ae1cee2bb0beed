"""``pgkeep dump delete``: delete dumps, for good."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence

from pgkeep.cli.by_hand import in_each
from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import DUMPS, One, add_only_argument
from pgkeep.cli.systems import add_system_argument
from pgkeep.repository.dumps import delete_dumps, read_dumps
from pgkeep.repository.layout import Layout

EXAMPLES = (
    ("pgkeep dump delete 20261120T020004Z", "there is no trash for dumps"),
    ("pgkeep dump delete 20261120T020004Z --dry-run", "only say whether there is one"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Which ones."""
    parser.add_argument(
        "dump", metavar="DUMP", nargs="+", help="its name, an unmistakable beginning, or latest"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_only_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """In each repository that has it."""

    def act(one: One, layout: Layout, dumps: Sequence[str]) -> Collection[str]:
        if not args.dry_run:
            delete_dumps(one.repository.store, layout, dumps)
        return dumps

    return in_each(
        context,
        act,
        args.dump,
        said="Would delete: {}" if args.dry_run else "Deleted: {}",
        things=DUMPS,
        stored=_stored,
        again="Run the command again when they answer, and pgkeep copy only then: it would bring "
        "the dump back from there.",
        more={"dry_run": args.dry_run},
    )


def _stored(one: One, layout: Layout) -> Collection[str]:
    dumps = read_dumps(one.repository, layout)
    return {*(each.id for each in dumps.dumps), *(each.dump for each in dumps.problems)}
