"""``pgkeep backup``: make a base backup of the running server."""

from __future__ import annotations

import socket
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from pgkeep.cli.after_backup import expire_after, hold_it, lock_it, wants_expiry
from pgkeep.cli.context import Context
from pgkeep.cli.session import connect_server, open_host_state, open_store, unlock_of
from pgkeep.config import state_directory
from pgkeep.errors import LocalIOError, PagesDamaged, TooFewCopies
from pgkeep.repository.identity import open_repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.start import ask_for_start
from pgkeep.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from pathlib import Path

    from pgkeep.backup.run import BackupReport
    from pgkeep.cli.members import Members
    from pgkeep.progress import Progress
    from pgkeep.repository.identity import Repository
    from pgkeep.storage.fanout import FanOutStore

EXAMPLES = (
    ("pgkeep backup", "of the server that PGHOST, PGPORT and the settings name"),
    ("pgkeep backup --note 'before the move'", "with a word on why"),
    ("pgkeep backup --full", "every page again, whatever is stored already"),
    ("PGKEEP_PRIMARY='host=db1' pgkeep backup", "of a standby; the primary ends its last segment"),
    ("pgkeep backup --rate-limit 100MiB --jobs 1", "gently"),
)
_SHOWN_PAGES = 20


def add_arguments(parser: ArgumentParser) -> None:
    """What to store, and how hard to work."""
    group = parser.add_argument_group("the backup")
    group.add_argument("--note", default="", metavar="TEXT", help="shown by list and show")
    group.add_argument(
        "--hold", action="store_true", help="keep it until pgkeep release, whatever the policy says"
    )
    group.add_argument(
        "--expire",
        action=BooleanOptionalAction,
        default=None,
        help="afterwards give up what the policy does not keep, or do not "
        "(PGKEEP_EXPIRE_AFTER_BACKUP; on)",
    )
    group.add_argument(
        "--full",
        action="store_true",
        help="store every page, and not only those that differ from the last backup's",
    )
    group.add_argument(
        "--read-all",
        action="store_true",
        help="read every file, also those that are provably as they were (PGKEEP_READ_ALL_EVERY; "
        "every 7th backup)",
    )
    group.add_argument(
        "--spread-checkpoint",
        action="store_true",
        help="let the server take its time for the checkpoint (minutes), instead of at once",
    )
    group.add_argument(
        "--archive-timeout",
        metavar="TIME",
        help="how long to wait for WAL to arrive (PGKEEP_ARCHIVE_TIMEOUT; 60 s)",
    )
    group.add_argument(
        "--force-version", metavar="MAJOR", help="accept this untested PostgreSQL major version"
    )
    group = parser.add_argument_group("speed")
    group.add_argument("--jobs", metavar="N", help="workers (PGKEEP_JOBS; one a core)")
    group.add_argument("--level", metavar="N", help="zstd level, 1 to 19 (PGKEEP_LEVEL; 1)")
    group.add_argument(
        "--rate-limit", metavar="SIZE", help="most bytes a second to read (PGKEEP_RATE_LIMIT)"
    )
    group.add_argument(
        "--nice",
        action=BooleanOptionalAction,
        default=None,
        help="work at low priority, or not (PGKEEP_NICE; on)",
    )


def run(context: Context, args: Namespace) -> int:
    """Make it, show it, and say by the exit code whether it is good."""
    from pgkeep.backup.run import BackupOptions, run_backup

    settings = context.settings
    several = _open_several(context)
    repository = several[0] if several else _open_one(context)
    options = BackupOptions(
        cluster=settings.cluster,
        jobs=settings.jobs,
        level=settings.level,
        host=socket.gethostname(),
        pgdata=settings.pgdata,
        primary=settings.primary,
        rate_limit=settings.rate_limit,
        archive_timeout=settings.archive_timeout,
        force_version=settings.force_version,
        spread_checkpoint=args.spread_checkpoint,
        low_priority=settings.nice,
        note=args.note,
        full=args.full,
        read_all_every=1 if args.read_all else settings.read_all_every,
        cache=_cache(context, repository),
    )
    with connect_server(context) as connection, context.progress() as progress:
        context.log.info("backup-begins", jobs=options.jobs, level=options.level)
        report = run_backup(repository, connection, options, progress=progress)
        try:
            have = _spread(context, several, report, progress) if several else []
        except TooFewCopies as error:
            raise _with_damage(error, report) from error
        context.log.info("backup-made", backup=report.head.backup, bytes=report.head.database_bytes)
        lock_it(context, report.head)
        if args.hold:
            hold_it(context, report.head)
        if not report.failed and wants_expiry(context):
            expire_after(context, progress)
    document = {
        **asdict(report.head),
        "good": not report.failed,
        "damaged_pages": [{"file": path, "page": page} for path, page in report.failed],
        "left_out": list(report.left_out),
        "files_not_read": report.unread,
        "warnings": progress.warnings,
        "repositories": have,
    }
    context.output.result(document, lambda: _render(context, report))
    if report.failed:
        return _damaged(context, report)
    return 0


def _open_one(context: Context) -> Repository:
    settings = context.settings
    host = open_host_state(settings, context.owner_uid)
    store = ask_for_start(open_store(settings, outages=context.outages), settings.cluster)
    return open_repository(store, host, unlock=unlock_of(settings))


def _open_several(context: Context) -> tuple[Repository, FanOutStore, Members] | None:
    """The repository that leads, and all that answered; None if there is but one."""
    if not context.settings.mirrors:
        return None
    from pgkeep.cli.away_notes import AwayNotes
    from pgkeep.cli.members import open_members
    from pgkeep.cli.mirroring import open_lead

    members = open_members(context, context.owner_uid)
    notes = AwayNotes(state_directory(context.settings, context.owner_uid) / "away")
    for member in members.present:
        # It answers: from here on it has to get the WAL, without which there is no backup there.
        notes.note(member.name, is_away=False)
    return (*open_lead(context, members), members)


def _spread(
    context: Context,
    several: tuple[Repository, FanOutStore, Members],
    report: BackupReport,
    progress: Progress,
) -> list[str]:
    """Give the backup to the mirrors; the names of the repositories that have it."""
    from pgkeep.cli.mirroring import spread_backup

    repository, store, members = several
    layout = Layout(report.head.cluster, int(report.head.system_identifier))
    backup = report.head.backup
    try:
        return spread_backup(
            context, members, store, layout, backup, keyring_of=repository, progress=progress
        )
    finally:
        store.close()


def _cache(context: Context, repository: Repository) -> Path | None:
    """Where this host keeps page hashes for the next backup; without it they are read again."""
    host = open_host_state(context.settings, context.owner_uid)
    identity = repository.keyring.repository_id.hex()
    try:
        return host.folder("hashes", identity, context.settings.cluster)
    except LocalIOError as error:
        context.log.info("no-hash-cache", reason=str(error))
        return None


def _render(context: Context, report: BackupReport) -> None:
    head = report.head
    took = format_duration(head.total_seconds)
    if not head.parent and head.copy_seconds:
        took += f" (copied at {format_rate(head.database_bytes / head.copy_seconds)})"
    context.output.say(
        f"Backup {head.backup}: {format_size(head.database_bytes)} in {head.files} files, stored "
        f"in {format_size(head.added_bytes)}, in {took}"
    )
    if head.parent:
        context.output.say(
            f"It shares {format_size(head.stored_bytes - head.added_bytes)} with {head.parent} and "
            f"those before, and restores by itself. {report.unread} files were provably unchanged "
            "and were not read."
        )
    for path in report.left_out:
        context.output.warn(f"Left out: {path}")


def _with_damage(error: TooFewCopies, report: BackupReport) -> TooFewCopies:
    """That a backup is in too few places must not hide that it holds damage."""
    if not report.failed:
        return error
    damage = _damage(report)
    return TooFewCopies(
        f"{error.what} {damage.what}",
        why=" ".join(part for part in (error.why, damage.why) if part),
        remedy=f"{damage.remedy} {error.remedy}",
        **error.facts,
        damaged_pages=len(report.failed),
    )


def _damage(report: BackupReport) -> PagesDamaged:
    """The backup is kept; the damage is in the server, and goes on being there."""
    shown = [f"{path} page {page}" for path, page in report.failed[:_SHOWN_PAGES]]
    more = len(report.failed) - len(shown)
    return PagesDamaged(
        f"The backup {report.head.backup} was made and kept, and {len(report.failed)} pages of "
        "the data directory failed their checksum.",
        why="; ".join(shown) + (f"; and {more} more." if more else "."),
        remedy="The server's disk or memory damages data: look into it now, and keep the backups "
        "from before.",
    )


def _damaged(context: Context, report: BackupReport) -> int:
    error = _damage(report)
    if not context.output.json:
        from pgkeep.cli.failure import error_text

        print(error_text(error), file=context.output.stderr)
    return error.exit_code
