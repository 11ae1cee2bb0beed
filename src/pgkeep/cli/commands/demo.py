"""``pgkeep demo``: the whole story on throw-away servers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from pgkeep.cli.context import Context
from pgkeep.errors import UsageError

EXAMPLES = (
    ("pgkeep demo", "a table is lost and comes back, in about a minute"),
    ("pgkeep demo --scale 200", "with 3 GB of data"),
    ("pgkeep demo --keep", "and leave everything there, to look at"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """How much data, and whether to tidy up."""
    group = parser.add_argument_group("the story")
    group.add_argument(
        "--scale", default="15", metavar="N", help="pgbench's scale, 15 MB of data each (15)"
    )
    group.add_argument("--keep", action="store_true", help="do not remove the folder afterwards")


def run(context: Context, args: Namespace) -> int:
    """Tell it."""
    from pgkeep.demo.story import run_demo

    if not args.scale.isdecimal() or int(args.scale) < 1:
        raise UsageError(f"--scale {args.scale} is not a number from 1 up.")

    def say(text: str) -> None:
        context.output.say(text)
        context.output.stdout.flush()

    report = run_demo(
        say,
        program=context.program,
        environ=context.environ,
        scale=int(args.scale),
        keep=args.keep,
    )
    context.output.result(asdict(report), lambda: None)
    return 0
