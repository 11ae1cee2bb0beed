"""``pgkeep dump list``: the dumps of a cluster, a line each."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.dumps import DumpView, view_dumps
from pgkeep.cli.render import short_moment
from pgkeep.cli.systems import add_system_argument
from pgkeep.units import format_duration, format_size

if TYPE_CHECKING:
    from pgkeep.repository.dump_record import Contents

EXAMPLES = (
    ("pgkeep dump list", "what there is of this cluster"),
    ("pgkeep dump list --json", "the same for a script"),
)
_NAMES = 40


def add_arguments(parser: ArgumentParser) -> None:
    """Which of the cluster's systems."""
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Show them; one that cannot be read is an error, and hides none."""
    view = view_dumps(context, system=args.system)
    document = {
        "cluster": view.layout.cluster,
        "system_identifier": str(view.layout.system_identifier),
        "dumps": [summary(one.contents) for one in view.dumps.dumps],
        "problems": [{"dump": one.dump, **one.error.as_dict()} for one in view.dumps.problems],
        "unfinished": sorted(view.dumps.litter),
    }
    context.output.result(document, lambda: _render(context, view))
    for problem in view.dumps.problems:
        context.output.warn(f"The dump {problem.dump} cannot be read. {problem.error}")
    return view.dumps.problems[0].error.exit_code if view.dumps.problems else 0


def summary(contents: Contents) -> dict[str, object]:
    """What a list says of a dump."""
    return {
        "dump": contents.dump,
        "started": contents.started,
        "ended": contents.ended,
        "seconds": contents.seconds,
        "postgres": contents.postgres,
        "source": contents.source,
        "databases": contents.database_names,
        "database_bytes": sum(one.get("size_bytes") or 0 for one in contents.databases),
        "stored_bytes": contents.stored_bytes,
        "complete": contents.is_complete,
        "missing": len(contents.missing),
        "note": contents.note,
    }


def _render(context: Context, view: DumpView) -> None:
    now, say = datetime.now(UTC), context.output.say
    url = view.repository.store.url
    say(f"{view.layout.cluster} · system {view.layout.system_identifier} · {url}")
    say()
    if not view.dumps.dumps:
        say("There is no dump yet. Make one with: pgkeep dump create")
    else:
        context.output.table(
            ("  dump", "ended", "took", "databases", "", "stored", "note"),
            [_row(one.contents, now) for one in reversed(view.dumps.dumps)],
        )
    if view.dumps.litter:
        count = len(view.dumps.litter)
        say()
        say(f"{count} unfinished: being made, or left by runs that ended early (for expire)")


def _row(contents: Contents, now: datetime) -> tuple[str, ...]:
    names = ", ".join(contents.database_names)
    if len(names) > _NAMES:
        names = f"{len(contents.database_names)}: {names[: _NAMES - 4]}…"
    notes = [contents.note] if contents.note else []
    if contents.source != "server":
        notes.append(f"from {contents.source}")
    if not contents.is_complete:
        notes.append(f"LACKS {len(contents.missing)} (pgkeep dump show)")
    size = sum(one.get("size_bytes") or 0 for one in contents.databases)
    return (
        f"  {contents.dump}",
        short_moment(contents.moment, now),
        format_duration(contents.seconds),
        names,
        format_size(size),
        format_size(contents.stored_bytes),
        "; ".join(notes),
    )
