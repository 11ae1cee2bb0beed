"""``pgkeep expire``: give up what the policy does not keep, in each repository by its own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgkeep.cli.context import Context
from pgkeep.cli.each_repository import (
    NOT_FINISHED,
    Failed,
    One,
    add_only_argument,
    check_failed,
    in_all,
    open_each,
)
from pgkeep.cli.session import writer_facts
from pgkeep.errors import DamagedObject, FormatTooNew
from pgkeep.units import format_size

if TYPE_CHECKING:
    from pgkeep.keep.run import SystemReport

EXAMPLES = (
    ("pgkeep expire --dry-run", "say of each backup whether it is kept, and why"),
    ("pgkeep expire", "do it: into the trash first, bytes a day later"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Whether for real."""
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be done, and write nothing"
    )
    add_only_argument(parser)


def run(context: Context, args: Namespace) -> int:
    """Do what is due, and show every decision."""
    from pgkeep.keep.run import ExpireOptions, expire

    each = open_each(context, args.only)
    with context.progress() as progress:

        def expire_in(one: One) -> list[SystemReport]:
            options = ExpireOptions(
                one.settings.keep, one.settings.keep_grace, writer_facts(), dry_run=args.dry_run
            )
            return expire(one.repository, context.settings.cluster, options, progress=progress)

        found, failed = in_all(each, expire_in)
    document = {
        "dry_run": args.dry_run,
        "repositories": [
            {
                "name": one.name,
                "keep": str(one.settings.keep),
                "systems": [*map(_document, reports)],
            }
            for one, reports in found
        ],
        "failed": {name: error.as_dict() for name, error in failed.items()},
    }
    context.output.result(document, lambda: _render(context, found))
    return _judge(context, found, failed)


def _document(report: SystemReport) -> dict[str, Any]:
    return {
        "system_identifier": str(report.layout.system_identifier),
        "decisions": [
            {"backup": one.backup, "kept": one.is_kept, "why": list(one.why)}
            for one in report.decisions
        ],
        "into_trash": report.trashed,
        "in_trash": report.in_trash,
        "deleted": report.deleted,
        "wal": [asdict(one) for one in report.wal],
        "packs": asdict(report.sweep) if report.sweep else None,
        "notes": report.notes,
    }


def _render(context: Context, found: list[tuple[One, list[SystemReport]]]) -> None:
    say, dry = context.output.say, context.args.dry_run
    for one, reports in found:
        for report in reports:
            place = f"{report.layout.cluster}, system {report.layout.system_identifier}"
            say(f"{place}, in {one.name}: keep {one.settings.keep}")
            context.output.table(
                ("  backup", "", "why"),
                [
                    (f"  {d.backup}", "kept" if d.is_kept else "expires", "; ".join(d.why))
                    for d in reversed(report.decisions)
                ],
            )
            for line in _lines(report, dry=dry):
                say(f"  {line}")


def _lines(report: SystemReport, *, dry: bool) -> list[str]:
    """What becomes of what is not kept."""
    lines = []
    would = "would be " if dry else ""
    if report.trashed:
        lines.append(f"{_backups(report.trashed)} {would}put into the trash")
    if report.in_trash:
        lines.append(f"{_backups(report.in_trash)} in the trash")
    if report.deleted:
        lines.append(f"{_backups(report.deleted)} {would}deleted: {', '.join(report.deleted)}")
    lines += [
        f"WAL of timeline {wal.timeline} {would}deleted: {wal.files} files, "
        f"{format_size(wal.bytes)}, {wal.first} to {wal.last}"
        for wal in report.wal
    ]
    if sweep := report.sweep:
        if sweep.deleted:
            lines.append(f"{_packs(sweep.deleted, sweep.deleted_bytes)} {would}deleted")
        if sweep.condemned:
            packs = _packs(sweep.condemned, sweep.condemned_bytes)
            lines.append(f"{packs} that nobody needs {would}deleted by a run in an hour or later")
        if sweep.waiting:
            lines.append(f"{sweep.waiting} packs wait for their hour to be over")
    return [*lines, *report.notes]


def _backups(names: list[str]) -> str:
    return f"{len(names)} backup{'' if len(names) == 1 else 's'}"


def _packs(count: int, size_bytes: int) -> str:
    return f"{count} pack{'' if count == 1 else 's'} ({format_size(size_bytes)})"


def _judge(
    context: Context,
    found: list[tuple[One, list[SystemReport]]],
    failed: Failed,
) -> int:
    blocked = [
        report.sweep
        for _, reports in found
        for report in reports
        if report.sweep is not None and report.sweep.blocked_by
    ]
    check_failed(failed, NOT_FINISHED, remedy="Run the command again when that is mended.")
    if blocked and blocked[0].is_newer:
        raise FormatTooNew(
            f"No pack was deleted, since a newer pgkeep made the backup {blocked[0].blocked_by}.",
            remedy="Upgrade pgkeep on this host.",
        )
    if blocked:
        backup = blocked[0].blocked_by
        raise DamagedObject(
            f"No pack was deleted, since nobody knows what the backup {backup} needs: neither of "
            "its manifests can be read.",
            remedy="Bring one back from a copy of the repository (pgkeep copy), or give the "
            f"backup up: pgkeep delete {backup}",
        )
    return 0
