"""``pgkeep dump fetch``: fetch a dump, decrypted, into a directory."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.dumps import add_dump_argument, view_dumps
from pgkeep.cli.privileges import state_owner
from pgkeep.cli.systems import add_system_argument

if TYPE_CHECKING:
    from pgkeep.repository.dump_record import Contents

EXAMPLES = (
    ("pgkeep dump fetch --into /srv/dump", "the newest: all files of it, decrypted"),
    ("pgkeep dump fetch 20261120T020004Z --into /srv/dump --database orders", "one database"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Which, and where to."""
    add_dump_argument(parser)
    parser.add_argument(
        "--into", metavar="DIR", required=True, help="a directory that is empty, or not there yet"
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one, and what concerns the cluster; may be repeated",
    )
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Fetch them, and say how to go on."""
    from pgkeep.dump.fetch import fetch_dump

    view = view_dumps(context, system=args.system, owner_uid=state_owner(context))
    contents = view.find(args.dump).contents
    with context.progress() as progress:
        paths = fetch_dump(
            view.repository,
            view.layout,
            contents,
            Path(args.into).absolute(),
            databases=args.database,
            progress=progress,
        )
    document = {"dump": contents.dump, "files": [str(path) for path in paths]}
    context.output.result(document, lambda: _render(context, contents, paths))
    return 0


def _render(context: Context, contents: Contents, paths: list[Path]) -> None:
    say = context.output.say
    say(f"Fetched {contents.dump} ({len(paths)} files):")
    for path in paths:
        say(f"  {path}")
    say("Roles first: psql -f globals.sql; then, for each database, the first statement of its")
    say("create.sql, pg_restore --dbname=NAME FILE, and the rest of create.sql.")
