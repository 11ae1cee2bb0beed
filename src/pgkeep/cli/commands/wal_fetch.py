"""``pgkeep wal-fetch``: help and completion; the work is in ``cli/wal.py``, past argparse."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pgkeep.cli.commands.wal_push import common_options
from pgkeep.cli.context import Context

EXAMPLES = (
    ("restore_command = '/usr/bin/pgkeep wal-fetch %f %p'", "as pgkeep restore sets it"),
    ("pgkeep wal-fetch 00000002.history /tmp/00000002.history", "by hand"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Name and place, and what ``restore`` passes along."""
    parser.add_argument("name", help="name of the WAL file (%%f)")
    parser.add_argument("path", help="where to put it (%%p)")
    group = parser.add_argument_group("set by pgkeep restore")
    group.add_argument("--plan", metavar="PLAN", help="the files that the restore relies on")
    group.add_argument("--retry-seconds", metavar="N", help="how long to try a store that fails")
    group.add_argument("--absent-exit", metavar="N", help="exit code that says absent (1)")


def run(context: Context, args: Namespace) -> int:
    """Only reached by a program that calls the command line as a function."""
    from pgkeep.cli.wal import main

    options = [
        f"{option}={value}"
        for option, value in (
            ("--plan", args.plan),
            ("--retry-seconds", args.retry_seconds),
            ("--absent-exit", args.absent_exit),
        )
        if value
    ]
    return main(["wal-fetch", *common_options(args), *options, args.name, args.path])
