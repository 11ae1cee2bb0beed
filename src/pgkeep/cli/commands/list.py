"""``pgkeep list``: backups, and the moments one can go back to."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pgkeep.cli.context import Context
from pgkeep.cli.overview import ClusterView, repository_document, view_cluster
from pgkeep.cli.render import ago, moment, short_moment
from pgkeep.cli.systems import add_system_argument, other_system_lines
from pgkeep.cli.timelines import branches_of, timeline_lines
from pgkeep.repository.catalogue import Backup, Window
from pgkeep.units import format_duration, format_size, from_utc_text

EXAMPLES = (
    ("pgkeep list", "what is kept of this cluster, and when one can go back to"),
    ("pgkeep list --cluster orders", "of another one in the same repository"),
    ("pgkeep list --cost", "how much is stored, by the month, and what it comes to"),
    ("pgkeep list --json", "the same for a script"),
)
_DAY_SECONDS = 86400


def add_arguments(parser: ArgumentParser) -> None:
    """Which of the cluster's systems."""
    add_system_argument(parser)
    parser.add_argument("--deleted", action="store_true", help="also what is in the trash")
    parser.add_argument(
        "--cost", action="store_true", help="what storage and requests come to, now and later"
    )
    parser.add_argument(
        "--prices",
        metavar="TEXT",
        help="for --cost: '0.023 storage, 0.005 writes, 0.0004 reads, 0.09 out, USD' "
        "(PGKEEP_PRICES)",
    )


def run(context: Context, args: Namespace) -> int:
    """Read the catalogue and show it; a backup that cannot be read is an error, and hides none."""
    view = view_cluster(context)
    now = datetime.now(UTC)
    if args.cost or args.prices:
        _show_costs(context, view, now)
    else:
        context.output.result(_document(view), lambda: _render(context, view, now))
    for problem in view.problems:
        context.output.warn(f"The backup {problem.backup} cannot be read. {problem.error}")
    return view.problems[0].error.exit_code if view.problems else 0


def _show_costs(context: Context, view: ClusterView, now: datetime) -> None:
    from pgkeep.cli.costs import costs_of, document_of, render

    costs = costs_of(view, context.settings, now=now)

    def show() -> None:
        context.output.say(_headline(view))
        context.output.say()
        render(context, costs)

    context.output.result({**_document(view), "cost": document_of(costs)}, show)


def _document(view: ClusterView) -> dict[str, Any]:
    return {
        "cluster": view.layout.cluster,
        "system_identifier": str(view.layout.system_identifier),
        "systems": [system.as_dict() for system in view.systems],
        "repository": repository_document(view.repository),
        "stored_bytes": view.stored_bytes,
        "wal_bytes": view.inventory.stored_bytes,
        "windows": [_window_document(window) for window in view.windows],
        "timelines": [branch.as_dict() for branch in branches_of(view)],
        "gaps": [asdict(gap) for gap in view.inventory.gaps()],
        "backups": [
            {
                **asdict(backup.head),
                "good": view.is_good(backup),
                "checked": view.checked(backup),
                "notes": view.notes(backup),
                "held": backup.id in view.held,
            }
            for backup in view.backups
        ],
        "trash": [
            {"backup": name, "since": word.since, "reason": word.reason}
            for name, word in sorted(view.trashed.items())
        ],
        "problems": [
            {"backup": problem.backup, **problem.error.as_dict()} for problem in view.problems
        ],
    }


def _window_document(window: Window) -> dict[str, Any]:
    return {
        "timeline": int(window.timeline),
        "from": window.from_moment,
        "to": window.to_moment,
        "from_lsn": str(window.from_lsn),
        "last_segment": window.last_segment,
        "backups": list(window.backups),
    }


def _render(context: Context, view: ClusterView, now: datetime) -> None:
    say = context.output.say
    say(_headline(view))
    say()
    if view.backups:
        _render_backups(context, view, now)
    elif view.system_option:
        say("There is no backup of this system.")
    else:
        say("There is no backup yet. Make one with: pgkeep backup")
    if view.trashed:
        _render_trash(context, view, now)
    for line in other_system_lines(view.systems, view.layout, now=now):
        say(line)


def _render_backups(context: Context, view: ClusterView, now: datetime) -> None:
    say = context.output.say
    for line in (*window_lines(view, now), *timeline_lines(branches_of(view))):
        say(line)
    say()
    context.output.table(
        ("  backup", "kind", "ended", "took", "database", "added", "checked", "note"),
        [_row(view, backup, now) for backup in reversed(view.backups)],
    )
    say()
    for gap in view.inventory.gaps():
        last = "" if gap.first == gap.last else f" to {gap.last}"
        names = f"{gap.first}{last} ({gap.segments} segments)"
        say(f"WAL is missing on timeline {int(gap.timeline)}: {names}")
    say(_footer(view))


def _render_trash(context: Context, view: ClusterView, now: datetime) -> None:
    if not context.args.deleted:
        count = len(view.trashed)
        context.output.say(f"{count} more in the trash: pgkeep list --deleted")
        return
    context.output.say("In the trash (pgkeep undelete brings one back):")
    for name, word in sorted(view.trashed.items(), reverse=True):
        context.output.say(f"  {name}  since {short_moment(word.since, now)}  {word.reason}")


def _headline(view: ClusterView) -> str:
    parts = [view.layout.cluster]
    if view.backups:
        parts.append(f"PostgreSQL {short_version(view.backups[-1].head.postgres)}")
    parts += [f"system {view.layout.system_identifier}", view.repository.store.url]
    keys = view.repository.identity.keys
    if keys is None:
        parts.append("not encrypted")
    elif keys.passphrase:
        parts.append("sealed with a passphrase")
    else:
        count = len(keys.recipients)
        parts.append(f"sealed to {count} recipient{'' if count == 1 else 's'}")
    return " · ".join(parts)


def window_lines(view: ClusterView, now: datetime) -> list[str]:
    """The recovery windows, the newest last; loud when there is none."""
    if not view.windows:
        return [
            "No moment can be restored to: no backup has all the WAL and history that it needs."
        ]
    lines = ["You can go back to any moment"]
    for window in view.windows:
        reached = f"{moment(window.to_moment, now)} ({ago(window.to_moment, now)})"
        begin = moment(window.from_moment, now)
        lines.append(f"  from  {begin}   to  {reached}   timeline {int(window.timeline)}")
    return lines


def _row(view: ClusterView, backup: Backup, now: datetime) -> tuple[str, ...]:
    head = backup.head
    return (
        f"  {head.backup}",
        head.kind,
        short_moment(backup.ended, now),
        format_duration(head.total_seconds),
        format_size(head.database_bytes),
        format_size(head.added_bytes),
        checked_text(view, backup, now),
        "; ".join(view.notes(backup)),
    )


def checked_text(view: ClusterView, backup: Backup, now: datetime) -> str:
    """``deep, Thu 03:02``; a dash for a backup that no check has proved."""
    found = view.checked(backup)
    if found is None:
        return "-"
    level = "BROKEN" if found["result"] == "bad" else found["level"]
    return f"{level}, {short_moment(from_utc_text(found['at']), now)}"


def _footer(view: ClusterView) -> str:
    parts = [f"WAL {format_size(view.inventory.stored_bytes)}"]
    days = sum(
        (window.to_moment - window.from_moment).total_seconds() / _DAY_SECONDS
        for window in view.windows
    )
    if days >= 1:
        parts = [f"WAL {format_size(view.inventory.stored_bytes / days)} a day"]
    return " · ".join([*parts, f"this cluster {format_size(view.stored_bytes)} in the repository"])


def short_version(text: str) -> str:
    """``17.11`` of ``PostgreSQL 17.11 (Debian …) on x86_64…``."""
    words = text.split()
    return words[1] if len(words) > 1 and words[0] == "PostgreSQL" else text
