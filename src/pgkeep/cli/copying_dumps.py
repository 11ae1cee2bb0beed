"""The part of ``pgkeep copy`` that is about dumps: bringing them, locking them, saying so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgkeep.cli.systems import all_layouts
from pgkeep.errors import PgkeepError
from pgkeep.units import format_size

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.dump.mirror import DumpCopies
    from pgkeep.mirror.catch_up import CopyReport
    from pgkeep.mirror.member import Member
    from pgkeep.repository.identity import Repository


def copy_dumps_to(
    context: Context,
    present: Sequence[Member],
    repository: Repository,
    reports: Sequence[CopyReport],
    failed: dict[str, PgkeepError],
) -> dict[str, DumpCopies]:
    """Each target gets the dumps that others have; what became of it, by its name. What could not
    be copied is added to the target's report, and what its store refuses to ``failed``."""
    from pgkeep.cli.dump_locks import lock_dumps_of
    from pgkeep.cli.members import settings_by_name
    from pgkeep.dump.mirror import copy_dumps

    dry_run: bool = context.args.dry_run
    layouts = all_layouts(context.settings, repository)
    named = settings_by_name(context.settings)
    found: dict[str, DumpCopies] = {}
    for report in reports:
        target = report.target
        if target.name in failed:
            continue
        others = [repository._replace(store=one.store) for one in present if one != target]
        own = repository._replace(store=target.store)
        try:
            copies = copy_dumps(others, own, layouts, context.settings.dump_keep, dry_run=dry_run)
            found[target.name] = copies
            report.problems += [(f"dump {name}", why) for name, why in copies.problems]
            if target.name in named and not dry_run:
                lock_dumps_of(context, target.name, named[target.name], own, layouts)
        except PgkeepError as error:
            failed[target.name] = error
    return found


def dumps_document(copies: DumpCopies | None) -> dict[str, Any]:
    """For ``--json``."""
    if copies is None:
        return {"dumps": [], "dumps_left": []}
    return {"dumps": [one._asdict() for one in copies.copied], "dumps_left": copies.left}


def dumps_lines(copies: DumpCopies | None, verb: str) -> list[str]:
    """What a target got, or lacks, by the ``verb``; and what was not brought to it."""
    if copies is None:
        return []
    lines = []
    if copies.copied:
        size = format_size(sum(one.bytes for one in copies.copied))
        lines.append(f"{verb} {_dumps(len(copies.copied))}, {size}.")
    if copies.left:
        count = len(copies.left)
        lines.append(
            f"lacks {_dumps(count)} that dump_keep would not keep there, and that stay"
            f"{'s' if count == 1 else ''} away: {', '.join(copies.left)}."
        )
    return lines


def _dumps(count: int) -> str:
    return f"{count} dump{'' if count == 1 else 's'}"
