"""``pgkeep dump delete``: delete dumps, for good."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import One, add_only_argument, open_each
from pgkeep.cli.systems import add_system_argument, system_layout
from pgkeep.errors import MirrorsDiffer, NoSuchDump
from pgkeep.repository.dumps import Dumps, delete_dumps, read_dumps
from pgkeep.repository.layout import Layout

EXAMPLES = (
    ("pgkeep dump delete 20261120T020004Z", "there is no trash for dumps"),
    ("pgkeep dump delete 20261120T020004Z --dry-run", "only say whether there is one"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Which ones."""
    parser.add_argument(
        "dump", metavar="DUMP", nargs="+", help="its name, or an unmistakable beginning"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_only_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """In each repository that has it."""
    each = open_each(context, args.only)
    seen: list[tuple[One, Layout, Dumps]] = []
    for one in each.present:
        layout = system_layout(context.settings, one.repository, system=args.system)
        seen.append((one, layout, read_dumps(one.repository, layout)))
    known = {
        name
        for _, _, dumps in seen
        for name in (*(d.id for d in dumps.dumps), *(p.dump for p in dumps.problems))
    }
    wanted = [_match(text, known) for text in args.dump]
    done: dict[str, list[str]] = {}
    for one, layout, dumps in seen:
        there = {*(d.id for d in dumps.dumps), *(p.dump for p in dumps.problems)}
        here = [name for name in wanted if name in there]
        if here and not args.dry_run:
            delete_dumps(one.repository.store, layout, here)
        if here:
            done[one.name] = here
    verb = "Would delete" if args.dry_run else "Deleted"
    context.output.result(
        {"dumps": wanted, "done": done, "dry_run": args.dry_run, "away": sorted(each.away)},
        lambda: context.output.say(f"{verb}: {', '.join(wanted)}."),
    )
    if each.away:
        raise MirrorsDiffer(
            f"It could not be done in {', '.join(each.away)}.",
            why=next(iter(each.away.values())).what,
            remedy="Run the command again when they answer.",
        )
    return 0


def _match(text: str, known: set[str]) -> str:
    found = sorted(name for name in known if name.startswith(text))
    if text in known:
        found = [text]
    if len(found) != 1:
        shown = ", ".join((found or sorted(known))[-5:]) or "none"
        raise NoSuchDump(
            f"{text!r} is the beginning of {len(found)} dumps."
            if found
            else f"There is no dump {text!r}.",
            why=f"The newest that there are: {shown}.",
            remedy="pgkeep dump list shows all.",
        )
    return found[0]
