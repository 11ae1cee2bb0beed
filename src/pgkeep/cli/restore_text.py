"""What ``pgkeep restore`` says: the plan, and what there is at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.cli.check_text import render_check
from pgkeep.cli.render import pairs
from pgkeep.units import format_duration, format_rate, format_size, show_moment

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.restore.checking import CheckReport
    from pgkeep.restore.plan import RestoreOptions, RestorePlan
    from pgkeep.restore.run import RestoreReport


def render_plan(context: Context, plan: RestorePlan) -> None:
    resolution, head = plan.resolution, plan.resolution.backup.head
    wal = "copied there beforehand" if plan.wal_mode == "copied" else "fetched by the server"
    most = "at most " if plan.left_out else ""
    rows = [
        (
            "Plan",
            f"backup {head.backup} ({head.kind}), then WAL of timeline {resolution.timeline} "
            f"to {_where_to(plan)}",
        ),
        ("Reaches", show_moment(resolution.reaches) if resolution.reaches else ""),
        (
            "Size",
            f"{format_size(plan.write_bytes)} to write from {most}"
            f"{format_size(plan.stored_bytes)} "
            f"stored, {format_size(plan.wal_bytes)} of WAL · {format_size(plan.free_bytes)} free",
        ),
        ("Time", _time(plan)),
        ("Left out", _left_out(plan)),
        ("Check", _check(plan)),
        ("WAL", f"{wal} ({plan.wal_mode_reason})"),
        *(("Note", note) for note in (*plan.notes, *resolution.notes)),
        *(("Warning", text) for text in _warnings_before(context, plan)),
    ]
    for line in pairs(rows, indent=0):
        context.output.say(line)


def _time(plan: RestorePlan) -> str:
    found = plan.estimate
    if found is None:
        return ""
    text = (
        f"about {format_duration(found.seconds)} at {format_rate(found.rate)}, measured here at "
        f"the restore of {show_moment(found.measured)}"
    )
    if found.recovery_seconds is None:
        return f"{text}; recovery comes on top"
    return f"{text}; then about {format_duration(found.recovery_seconds)} of recovery"


def _left_out(plan: RestorePlan) -> str:
    if not plan.left_out:
        return ""
    names = ", ".join(one.name for one in plan.left_out)
    size = format_size(sum(one.size_bytes for one in plan.left_out))
    return f"{names} ({size}): cannot be used, and to be dropped afterwards"


def _check(plan: RestorePlan) -> str:
    if plan.options.check is None:
        return ""
    text = "afterwards it is started for a look, on a private socket, and stopped again"
    if plan.options.action == "promote":
        return f"{text}; recovery has ended then, on a timeline of its own"
    return f"{text}; recovery waits at its target again when you start it"


def _where_to(plan: RestorePlan) -> str:
    from pgkeep.restore.plan import describe_target

    if plan.options.standby is None:
        return describe_target(plan.options.target.target)
    return "the end, and on for as long as it is a standby"


def _warnings_before(context: Context, plan: RestorePlan) -> tuple[str, ...]:
    """The real run warns as it begins; a dry run has no such moment."""
    return (*plan.warnings, *plan.resolution.warnings) if context.args.dry_run else ()


def render_report(
    context: Context, report: RestoreReport, check: CheckReport | None = None
) -> None:
    say = context.output.say
    options = report.plan.options
    if check is not None:
        render_check(context, check)
    then = _what_then(options) if check is None or check.paused else _recovered(options)
    say(f"Done in {format_duration(report.seconds)}. {then}")
    rows = [("start it", report.start)]
    if options.standby is not None:
        say("Once promoted it archives as the original did, on a timeline of its own.")
    elif options.continue_archiving:
        say("It takes the original's place, and archives as the original did.")
    else:
        say("It is a copy: it archives nothing and disturbs nobody.")
    for line in pairs(rows):
        say(line)
    if report.original_runs:
        say("The original runs on this machine, so the copy is started on another port.")
    if report.adopt:
        say("To make it the original, when it has recovered and the old one is stopped for good:")
    for command in report.adopt:
        say(f"  {command}")
    if report.drop:
        names = ", ".join(one.name for one in report.plan.left_out)
        say(f"Left out, and of no use: {names}. Nobody can connect there, and no data is in it.")
        say("When the server accepts writes, drop what was left out (DROP DATABASE):")
        say(f"  {report.drop}")
    if report.failed_pages:
        shown = ", ".join(f"{path} page {page}" for path, page in report.failed_pages[:10])
        context.output.warn(
            f"{len(report.failed_pages)} pages were damaged when they were backed up: {shown}"
        )


def _recovered(options: RestoreOptions) -> str:
    from pgkeep.restore.plan import describe_target

    target = describe_target(options.target.target)
    return (
        f"The cluster in {options.into} has recovered to {target}; once started, it accepts writes."
    )


def _what_then(options: RestoreOptions) -> str:
    from pgkeep.restore.plan import describe_target

    once = f"Once started, the cluster in {options.into}"
    if options.standby is not None:
        primary = options.standby.primary
        whom = f"its primary ({primary}) and the archive" if primary else "the archive"
        return f"{once} follows {whom} until it is promoted."
    then = {
        "promote": "accept writes",
        "pause": "wait, readable, for a decision",
        "shutdown": "shut down",
    }
    target = describe_target(options.target.target)
    return f"{once} recovers to {target}, and will then {then[options.action]}."
