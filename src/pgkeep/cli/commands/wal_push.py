"""``pgkeep wal-push``: help and completion; the work is in ``cli/wal.py``, past argparse."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pgkeep.cli.context import Context

EXAMPLES = (
    ("archive_command = '/usr/bin/pgkeep wal-push %p'", "in postgresql.conf; see pgkeep setup"),
    ("pgkeep wal-push pg_wal/000000010000000000000042", "by hand, in the data directory"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """The file."""
    parser.add_argument("path", help="the file, as the server gives it (%%p)")


def run(context: Context, args: Namespace) -> int:
    """Only reached by a program that calls the command line as a function."""
    from pgkeep.cli.wal import main

    return main(["wal-push", *common_options(args), args.path])


def common_options(args: Namespace) -> list[str]:
    """The options of every command, again as words."""
    words = [f"--{name}={getattr(args, name)}" for name in _VALUES if getattr(args, name)]
    return words + (["-v"] if args.verbose else []) + (["--json"] if args.json else [])


_VALUES = ("repo", "cluster", "config", "pgdata")
