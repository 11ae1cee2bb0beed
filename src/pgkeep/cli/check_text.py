"""What ``pgkeep restore --check`` says of the server that it started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.cli.render import pairs
from pgkeep.units import format_duration, show_moment

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.restore.checking import CheckReport
    from pgkeep.restore.looks import Look

_MOST = 20


def render_check(context: Context, check: CheckReport) -> None:
    """A few lines, and what is to be done about indexes whose order may be another here."""
    for line in pairs([("Checked", _recovered(check)), *_rows(check)], indent=0):
        context.output.say(line)
    for look in check.looks:
        for line in _reindex(look):
            context.output.say(line)


def _recovered(check: CheckReport) -> str:
    last = (
        f", its last transaction at {show_moment(check.last_commit)}" if check.last_commit else ""
    )
    where = "waits at its target" if check.paused else f"is on timeline {check.timeline}"
    return (
        f"it recovered in {format_duration(check.recovery_seconds)}{last}, {where}, and was "
        "stopped again"
    )


def _rows(check: CheckReport) -> list[tuple[str, str]]:
    databases = len(check.looks)
    relations = sum(look.relations for look in check.looks)
    one = databases == 1
    rows = [
        (
            "",
            f"{databases} database{'' if one else 's'} accept{'s' if one else ''} connections; "
            f"{relations} relations",
        ),
        ("amcheck", _amcheck(check)),
    ]
    # Such as REINDEX CONCURRENTLY leaves when it fails: the original may have them, too.
    invalid = [f"{look.database}: {name}" for look in check.looks for name in look.invalid_indexes]
    if invalid:
        more = f" and {len(invalid) - _MOST} more" if len(invalid) > _MOST else ""
        rows.append(("Note", f"invalid indexes: {', '.join(invalid[:_MOST])}{more}"))
    if check.unloaded:
        names = ", ".join(check.unloaded)
        rows.append(("Note", f"not loaded for the check, since they run jobs: {names}"))
    rows += [("Problem", text) for text in check.problems[:_MOST]]
    return [(title, text) for title, text in rows if text]


def _amcheck(check: CheckReport) -> str:
    checked = [look.amcheck for look in check.looks if look.amcheck is not None]
    if not checked:
        why = "cannot be made while recovery waits" if check.paused else "is not installed here"
        return f"{why}; tables and indexes were not looked into"
    left = [look.database for look in check.looks if look.amcheck is None]
    without = f"; not in {', '.join(left)}" if left else ""
    return f"looked into {sum(checked)} tables and indexes{without}"


def _reindex(look: Look) -> list[str]:
    """The statements that put indexes in this machine's order, for psql in that database."""
    if not look.collations:
        return []
    database = '"' + look.database.replace('"', '""') + '"'
    count = len(look.reindex)
    lines = [
        f"In {look.database}, {count} index{'' if count == 1 else 'es'} on text may be in another "
        f"order than this machine's ({', '.join(look.collations)}). There, before it is used:"
    ]
    if count > _MOST:
        lines.append(f"  REINDEX DATABASE {database};")
    else:
        lines += [f"  REINDEX INDEX {name};" for name in look.reindex]
    for name in look.collations:
        if name == "default":
            lines.append(f"  ALTER DATABASE {database} REFRESH COLLATION VERSION;")
        else:
            lines.append(f"  ALTER COLLATION {name} REFRESH VERSION;")
    return lines
