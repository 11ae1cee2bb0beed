"""``pgkeep show``: one backup in detail."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pgkeep.cli.commands.list import checked_text, short_version
from pgkeep.cli.context import Context
from pgkeep.cli.overview import ClusterView, view_cluster
from pgkeep.cli.render import ago, moment, pairs
from pgkeep.cli.systems import add_system_argument
from pgkeep.repository.catalogue import Backup, load_manifest
from pgkeep.repository.manifest import Manifest
from pgkeep.repository.sharing import packs_of, read_sharing
from pgkeep.units import format_duration, format_rate, format_size, from_utc_text

EXAMPLES = (
    ("pgkeep show latest", "the newest backup"),
    ("pgkeep show 20261120T020004Z", "one backup; an unmistakable beginning suffices"),
    ("pgkeep show latest --json", "with all that was recorded about the server"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Which backup, of which system."""
    parser.add_argument("backup", metavar="ID", help="its name, as list shows it, or latest")
    add_system_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Read its whole manifest and show it."""
    view = view_cluster(context)
    backup = view.find(args.backup)
    manifest = load_manifest(view.repository, view.layout, backup)
    try:
        packs = packs_of(manifest)
        document = _document(view, backup, manifest)
    finally:
        manifest.close()
    sharing = read_sharing(
        view.repository,
        view.layout,
        packs,
        others=[other for other in view.backups if other.id != backup.id],
        unreadable=[problem.backup for problem in view.problems],
    )
    document |= {"packs": len(packs), **sharing._asdict()}
    now = datetime.now(UTC)
    context.output.result(document, lambda: _render(context, view, backup, document, now))
    return 0


def _document(view: ClusterView, backup: Backup, manifest: Manifest) -> dict[str, Any]:
    damaged = [row for row in manifest.files() if row.failed_pages]
    windows = [window for window in view.windows if backup.id in window.backups]
    return {
        **asdict(backup.head),
        "good": view.is_good(backup),
        "checked": view.checked(backup),
        "notes": view.notes(backup),
        "manifest_copies": sum(backup.copies),
        "restorable_to": max((window.to_moment for window in windows), default=None),
        "damaged_files": [{"file": row.path, "pages": row.failed_pages} for row in damaged],
        "tablespaces": [space._asdict() for space in manifest.tablespaces()],
        "facts": manifest.facts(),
    }


def _render(
    context: Context, view: ClusterView, backup: Backup, facts: dict[str, Any], now: datetime
) -> None:
    head = backup.head
    good = "good" if facts["good"] else "NOT good"
    context.output.say(f"{head.backup} · {head.kind} · {good} · {view.repository.store.url}")
    ended = from_utc_text(head.ended)
    reach = facts["restorable_to"]
    took = format_duration(head.total_seconds)
    if not head.parent and head.copy_seconds:
        took += f", copied at {format_rate(head.database_bytes / head.copy_seconds)}"
    obstacle = view.obstacle(backup) or "WAL is missing"
    standby = " (a standby)" if head.from_standby else ""
    rows = [
        ("cluster", f"{head.cluster}, system {head.system_identifier}, timeline {head.timeline}"),
        ("server", f"PostgreSQL {short_version(head.postgres)} on {head.host}{standby}"),
        ("parent", _parent(view, head.parent)),
        ("began", moment(from_utc_text(head.started), now)),
        ("ended", f"{moment(ended, now)} ({ago(ended, now)})"),
        ("took", took),
        ("WAL", f"{head.start_lsn} to {head.stop_lsn}"),
        ("reaches to", moment(reach, now) if reach else f"nowhere: {obstacle}"),
        ("database", f"{format_size(head.database_bytes)} in {head.files} files"),
        ("stored", f"{format_size(head.stored_bytes)} in {facts['packs']} packs"),
        ("added", f"{format_size(head.added_bytes)} by this backup"),
        ("shared", _shared(facts)),
        ("deleting it", _freed(facts)),
        ("page checksums", "on, verified" if head.checksums else "off: pages were not verified"),
        ("checked", checked_text(view, backup, now)),
        ("notes", "; ".join(facts["notes"])),
    ]
    for line in pairs(rows):
        context.output.say(line)
    for space in facts["tablespaces"]:
        context.output.say(f"  tablespace {space['name']} ({space['oid']}) at {space['location']}")
    for row in facts["damaged_files"]:
        context.output.say(f"  damaged: {row['file']}, {row['pages']} pages")
    if reach:
        context.output.say()
        which = f"--backup {head.backup}{view.system_option}"
        context.output.say(f"To restore it: pgkeep restore --into DIRECTORY {which}")


def _parent(view: ClusterView, parent: str | None) -> str:
    if parent is None:
        return ""
    known = {backup.id for backup in view.backups} | {problem.backup for problem in view.problems}
    return parent if parent in known else f"{parent} (deleted since, and not needed)"


def _shared(facts: dict[str, Any]) -> str:
    count = len(facts["shared_with"])
    if not count:
        return "nothing" if facts["freed_bytes"] is not None else "nothing that is known"
    size = format_size(facts["shared_bytes"])
    return f"{size} with {count} other {'backup' if count == 1 else 'backups'}"


def _freed(facts: dict[str, Any]) -> str:
    if facts["freed_bytes"] is None:
        return "would free an unknown size: other backups cannot be read"
    return f"would free {format_size(facts['freed_bytes'])}"
