"""``pgkeep dump show``: one dump in detail."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgkeep.cli.commands.list import short_version
from pgkeep.cli.context import Context
from pgkeep.cli.dumps import DumpView, add_dump_argument, view_dumps
from pgkeep.cli.render import ago, moment, pairs
from pgkeep.cli.systems import add_system_argument
from pgkeep.units import format_duration, format_size, from_utc_text

if TYPE_CHECKING:
    from pgkeep.repository.dump_record import Contents, DumpFile

EXAMPLES = (
    ("pgkeep dump show", "the newest"),
    ("pgkeep dump show 20261120T020004Z", "one; an unmistakable beginning suffices"),
    ("pgkeep dump show --json", "with all that was recorded"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Which one."""
    add_dump_argument(parser)
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Show all that its contents say."""
    view = view_dumps(context, system=args.system)
    contents = view.find(args.dump).contents
    document = {**contents.members(), "complete": contents.is_complete}
    context.output.result(document, lambda: _render(context, view, contents))
    return 0


def _render(context: Context, view: DumpView, contents: Contents) -> None:
    say, now = context.output.say, datetime.now(UTC)
    whole = "complete" if contents.is_complete else f"LACKS {len(contents.missing)}"
    say(f"{contents.dump} · {whole} · {view.repository.store.url}")
    ended = from_utc_text(contents.ended)
    standby = " (a standby)" if contents.facts.get("is_in_recovery") else ""
    rows = [
        ("cluster", f"{contents.cluster}, system {contents.system_identifier}"),
        ("server", f"PostgreSQL {short_version(contents.postgres)}{standby}, as {contents.role}"),
        ("from", "" if contents.source == "server" else contents.source),
        ("made by", f"pg_dump {contents.program} and pgkeep {contents.pgkeep} on {contents.host}"),
        ("began", moment(from_utc_text(contents.started), now)),
        ("ended", f"{moment(ended, now)} ({ago(ended, now)})"),
        ("took", format_duration(contents.seconds)),
        ("stored", f"{format_size(contents.stored_bytes)} in {len(contents.files)} files"),
        ("left out", ", ".join(contents.skipped)),
        ("note", contents.note),
    ]
    for line in pairs(rows):
        say(line)
    say()
    context.output.table(
        ("  file", "database", "", "format", "stored", "took"),
        [_row(contents, file) for file in contents.files],
    )
    for one in contents.missing:
        where = f"{one.database}: " if one.database else ""
        say(f"  lacks {where}{one.what} ({one.why})")
    say()
    say(f"To restore it: pgkeep dump restore {contents.dump}")
    say(f"To have its files: pgkeep dump fetch {contents.dump} --into DIRECTORY")


def _row(contents: Contents, file: DumpFile) -> tuple[str, ...]:
    size = contents.facts_of(file.database or "").get("size_bytes")
    kind = file.kind if file.database is None else file.kind.replace("database", "")
    seconds = sum(
        step.seconds
        for step in contents.steps
        if (step.name, step.database) == (file.kind, file.database)
    )
    return (
        f"  {file.name}",
        file.database or "",
        format_size(size) if size and file.format else "",
        f"{file.format}, {file.compression}" if file.format else kind,
        format_size(file.size_bytes),
        format_duration(seconds) if seconds else "",
    )
