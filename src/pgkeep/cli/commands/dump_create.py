"""``pgkeep dump create``: dump databases with pg_dump, straight into the repository."""

from __future__ import annotations

import socket
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING

from pgkeep.cli.after_dump import expire_after_dump, lock_it, spread_dump
from pgkeep.cli.context import Context
from pgkeep.cli.dumps import open_dump_writer
from pgkeep.cli.session import server_access, writer_facts
from pgkeep.errors import DumpIncomplete, UsageError
from pgkeep.units import format_duration, format_size

if TYPE_CHECKING:
    from pgkeep.dump.options import DumpOptions
    from pgkeep.progress import Progress
    from pgkeep.repository.dump_record import Contents
    from pgkeep.repository.identity import Repository

EXAMPLES = (
    ("pgkeep dump create", "all databases of the server, roles and settings"),
    ("pgkeep dump create --database orders", "one; patterns are the shell's: 'shop_*'"),
    ("pgkeep dump create --database orders --table 'public.inv*'", "some tables of it"),
    ("pgkeep dump create --format directory --jobs 4", "several jobs on each database"),
    ("pgkeep dump create --from-backup", "of a base backup; production is asked for nothing"),
)
_SHOWN = 20


def add_arguments(parser: ArgumentParser) -> None:
    """What, how, and what of it is enough."""
    group = parser.add_argument_group("what")
    group.add_argument(
        "--database",
        dest="dump_include",
        action="append",
        metavar="PATTERN",
        help="this one, or those that fit; may be repeated (PGKEEP_DUMP_INCLUDE; all)",
    )
    group.add_argument(
        "--exclude",
        dest="dump_exclude",
        action="append",
        metavar="PATTERN",
        help="not these; wins (PGKEEP_DUMP_EXCLUDE)",
    )
    group.add_argument(
        "--templates",
        dest="dump_templates",
        action=BooleanOptionalAction,
        default=None,
        help="template databases, too (PGKEEP_DUMP_TEMPLATES; off)",
    )
    for name, what in (
        ("schema", "only these schemas"),
        ("exclude-schema", "not these schemas"),
        ("table", "only these tables"),
        ("exclude-table", "not these tables"),
        ("exclude-data", "not the rows of these tables"),
    ):
        group.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{what}, by pg_dump's patterns; may be repeated",
        )
    group.add_argument(
        "--parts",
        dest="dump_parts",
        metavar="LIST",
        help="beside databases: globals, passwords, settings, access; all, none "
        "(PGKEEP_DUMP_PARTS; all)",
    )
    group.add_argument(
        "--from-backup",
        nargs="?",
        const="",
        metavar="ID",
        help="not of the server: of a base backup, restored in scratch space (default: the best)",
    )
    group.add_argument(
        "--time", metavar="MOMENT", help="with --from-backup: as of then, 2026-11-20 14:03+01"
    )
    group.add_argument("--note", default="", metavar="TEXT", help="shown by list and show")
    group = parser.add_argument_group("how")
    group.add_argument(
        "--format",
        dest="dump_format",
        help="custom, directory or plain (PGKEEP_DUMP_FORMAT)",
        metavar="FORMAT",
    )
    group.add_argument(
        "--compression",
        dest="dump_compression",
        metavar="METHOD",
        help="as pg_dump's --compress (PGKEEP_DUMP_COMPRESSION; zstd:3)",
    )
    group.add_argument(
        "--jobs",
        dest="dump_jobs",
        metavar="N",
        help="jobs on one database; more than one: directory format (PGKEEP_DUMP_JOBS; 1)",
    )
    group.add_argument(
        "--at-once",
        dest="dump_at_once",
        metavar="N",
        help="databases at a time (PGKEEP_DUMP_AT_ONCE; 1)",
    )
    group.add_argument(
        "--dump-options",
        metavar="TEXT",
        help="further options of pg_dump, as one word (PGKEEP_DUMP_OPTIONS)",
    )
    group.add_argument(
        "--pause-replay",
        action="store_true",
        help="on a standby: pause replay meanwhile, so that no conflict ends the dump",
    )
    group.add_argument(
        "--force-version", metavar="MAJOR", help="accept this untested PostgreSQL major version"
    )
    group = parser.add_argument_group("afterwards")
    group.add_argument(
        "--expire",
        action=BooleanOptionalAction,
        default=None,
        help="delete the dumps that the policy does not keep, or do not "
        "(PGKEEP_EXPIRE_AFTER_DUMP; on)",
    )


def run(context: Context, args: Namespace) -> int:
    """Make it, show it, and say by the exit code whether it lacks anything."""
    from pgkeep.dump.run import make_dump

    if args.time and args.from_backup is None:
        raise UsageError("--time goes with --from-backup.")
    access = server_access(context)
    options = _options(context, args)
    with context.progress() as progress, open_dump_writer(context) as writer:
        if args.from_backup is None:
            contents = make_dump(writer.repository, access, options, progress=progress)
        else:
            contents = _from_backup(context, writer.repository, options, progress)
        context.log.info("dump-made", dump=contents.dump, bytes=contents.stored_bytes)
        have = spread_dump(context, writer, contents, progress)
        lock_it(context, contents)
        asked: bool | None = args.expire
        wanted = context.settings.expire_after_dump if asked is None else asked
        if contents.is_complete and wanted:
            expire_after_dump(context, contents, progress)
    document = {
        **contents.members(),
        "complete": contents.is_complete,
        "warnings": progress.warnings,
        "repositories": have,
    }
    context.output.result(document, lambda: _render(context, contents))
    if not contents.is_complete:
        return _incomplete(context, contents)
    return 0


def _from_backup(
    context: Context, repository: Repository, options: DumpOptions, progress: Progress
) -> Contents:
    """Restore the backup, dump what was restored."""
    from dataclasses import replace

    from pgkeep.cli.systems import restorable_layout
    from pgkeep.dump.from_backup import FromBackup, restored_server
    from pgkeep.dump.run import make_dump
    from pgkeep.restore import target

    args, settings = context.args, context.settings
    layout = restorable_layout(settings, repository, system=None)
    wanted = FromBackup(
        args.from_backup or None,
        target.at_time(args.time, inclusive=True) if args.time else target.latest(),
        settings.jobs,
        options.scratch,
        options.programs,
        context.environ.get("PGUSER") or settings.server.get("user"),
    )
    with restored_server(repository, layout, wanted, context.environ, progress=progress) as (
        access,
        source,
    ):
        # Settings and pg_hba would be those with which the backup was started to be dumped.
        parts = options.parts - {"settings", "access"}
        wanted_parts = replace(options, source=source, parts=parts)
        return make_dump(repository, access, wanted_parts, progress=progress)


def _options(context: Context, args: Namespace) -> DumpOptions:
    from pathlib import Path

    from pgkeep.config.dumps import ALL_PARTS, DatabaseSettings
    from pgkeep.dump.options import DumpOptions

    settings = context.settings
    return DumpOptions(
        cluster=settings.cluster,
        host=socket.gethostname(),
        by=writer_facts(),
        note=args.note,
        include=settings.dump_include,
        exclude=settings.dump_exclude,
        with_templates=settings.dump_templates,
        parts=ALL_PARTS if settings.dump_parts is None else settings.dump_parts,
        format=settings.dump_format,
        compression=settings.dump_compression,
        jobs=settings.dump_jobs,
        at_once=settings.dump_at_once,
        extra=settings.dump_options,
        selection=DatabaseSettings(
            schemas=tuple(args.schema),
            exclude_schemas=tuple(args.exclude_schema),
            tables=tuple(args.table),
            exclude_tables=tuple(args.exclude_table),
            exclude_data=tuple(args.exclude_data),
        ),
        databases=settings.databases,
        programs=settings.pg_bin,
        scratch=Path(settings.scratch) if settings.scratch else None,
        pause_replay=args.pause_replay,
        force_version=settings.force_version is not None,
    )


def _render(context: Context, contents: Contents) -> None:
    count = len(contents.database_names)
    context.output.say(
        f"Dump {contents.dump}: {count} database{'' if count == 1 else 's'}, stored in "
        f"{format_size(contents.stored_bytes)}, in {format_duration(contents.seconds)}"
    )


def incomplete_error(contents: Contents) -> DumpIncomplete:
    """What the dump lacks, as the error that it is."""
    missing = [
        f"{f'{one.database}: ' if one.database else ''}{one.what} ({one.why})"
        for one in contents.missing
    ]
    more = len(missing) - _SHOWN
    return DumpIncomplete(
        f"The dump {contents.dump} was made and kept, and lacks what could not be read.",
        why="; ".join(missing[:_SHOWN]) + (f"; and {more} more." if more > 0 else "."),
        remedy="Give the role the rights, or leave it out (--exclude, --exclude-table, --parts).",
        dump=contents.dump,
        missing=len(missing),
    )


def _incomplete(context: Context, contents: Contents) -> int:
    error = incomplete_error(contents)
    if not context.output.json:
        from pgkeep.cli.failure import error_text

        print(error_text(error), file=context.output.stderr)
    return error.exit_code
