"""``pgkeep mark``: a named moment that one can go back to."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from pgkeep.cli.context import Context
from pgkeep.cli.session import (
    connect_server,
    open_host_state,
    open_store,
    unlock_of,
    writer_facts,
)

EXAMPLES = (
    ("pgkeep mark before-the-upgrade", "now; come back with restore --name before-the-upgrade"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Its name."""
    parser.add_argument("name", help="how the moment shall be called; 1 to 63 bytes")
    parser.add_argument(
        "--archive-timeout",
        metavar="TIME",
        help="how long to wait for WAL to arrive (PGKEEP_ARCHIVE_TIMEOUT; 60 s)",
    )
    parser.add_argument(
        "--force-version", metavar="MAJOR", help="accept this untested PostgreSQL major version"
    )


def run(context: Context, args: Namespace) -> int:
    """Make the restore point, and return when its WAL is stored."""
    from pgkeep.backup.restore_point import PointOptions, make_restore_point
    from pgkeep.repository.identity import open_repository

    settings = context.settings
    options = PointOptions(
        settings.cluster,
        args.name,
        pgdata=settings.pgdata,
        archive_timeout=settings.archive_timeout,
        force_version=settings.force_version,
    )
    host = open_host_state(settings, context.owner_uid)
    if settings.mirrors:
        from pgkeep.cli.members import open_members

        first, *rest = open_members(context, context.owner_uid).present
        store, others = first.store, [member.store for member in rest]
    else:
        store, others = open_store(settings, outages=context.outages), []
    repository = open_repository(store, host, unlock=unlock_of(settings))
    with connect_server(context) as connection, context.progress() as progress:
        point = make_restore_point(
            repository,
            connection,
            options,
            by=writer_facts(),
            others=others,
            progress=progress,
        )
    context.log.info("restore-point", name=point.name, lsn=str(point.lsn))
    document = {**asdict(point), "lsn": str(point.lsn), "timeline": int(point.timeline)}
    context.output.result(
        document,
        lambda: context.output.say(
            f"Restore point {point.name!r} at {point.lsn}, timeline {int(point.timeline)}; its WAL "
            f"is stored. Go back to it with: pgkeep restore --into DIR --name {_quoted(point.name)}"
        ),
    )
    return 0


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
