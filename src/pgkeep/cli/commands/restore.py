"""``pgkeep restore``: a cluster comes back, into a directory, as it was at any moment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pgkeep.cli.context import Context

EXAMPLES = (
    ("pgkeep restore --into /srv/back --latest", "as new as the repository knows it"),
    (
        "pgkeep restore --into /srv/back --time '2026-11-20 14:03:07+01:00'",
        "as it was at a moment",
    ),
    ("pgkeep restore --into /srv/back --latest --dry-run", "only say what would be done"),
)
ACTIONS = ("promote", "pause", "shutdown")


def add_arguments(parser: ArgumentParser) -> None:
    """Where to, to when, and what then."""
    group = parser.add_argument_group("where to")
    group.add_argument(
        "--into", required=True, metavar="DIR", help="the new data directory; must be empty or new"
    )
    group.add_argument("--dry-run", action="store_true", help="only say what would be done")
    targets = parser.add_argument_group("to when (one of them)")
    one = targets.add_mutually_exclusive_group(required=True)
    one.add_argument("--latest", action="store_true", help="the end of the WAL that is stored")
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
    group = parser.add_argument_group("what then")
    group.add_argument(
        "--action",
        choices=ACTIONS,
        default="promote",
        metavar="ACTION",
        help="when the target is reached: promote, pause or shutdown (promote)",
    )
    group.add_argument(
        "--continue-archiving",
        action="store_true",
        help="it takes the original's place, and archives as the original did",
    )
    group = parser.add_argument_group("speed")
    group.add_argument("--jobs", metavar="N", help="workers (PGKEEP_JOBS; one a core)")


def run(context: Context, args: Namespace) -> int:
    raise NotImplementedError
