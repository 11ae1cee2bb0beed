"""What a command does when several repositories are named: write to all, and make them alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pgkeep.cli.members import Members
from pgkeep.cli.session import open_host_state, unlock_of, writer_facts
from pgkeep.config.mirrors import copies_wanted
from pgkeep.errors import PgkeepError, TooFewCopies
from pgkeep.mirror.catch_up import CopyReport, CopyRequest, catch_up
from pgkeep.mirror.member import Member
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository, open_repository
from pgkeep.repository.layout import Layout
from pgkeep.storage.fanout import FanOutStore

if TYPE_CHECKING:
    from pgkeep.cli.context import Context

# What is written to all repositories at once; everything else follows by copying.
_THROUGH = ("/packs/", "/history/", "/dumps/")
_LEAD_ONLY = ("/contents",)


def open_lead(context: Context, members: Members) -> tuple[Repository, FanOutStore]:
    """The first repository that answers, to be written to together with the others."""
    from pgkeep.cli.outages import PATIENCE_SECONDS
    from pgkeep.storage.retry import RetryingStore

    lead, *others = members.present
    inner = getattr(lead.store, "store", lead.store)
    store = FanOutStore(
        RetryingStore(inner, deadline_seconds=PATIENCE_SECONDS, outages=context.outages),
        {member.name: member.store for member in others},
        through=_THROUGH,
        lead_only=_LEAD_ONLY,
        dropped=lambda name, error: _dropped(context, name, error),
    )
    settings = context.settings
    host = open_host_state(settings, context.owner_uid)
    return open_repository(store, host, unlock=unlock_of(settings)), store


def _dropped(context: Context, name: str, error: PgkeepError) -> None:
    tell = context.shown or context.output
    tell.warn(
        f"The repository {name!r} is left aside from here on, and gets the rest by the next "
        f"backup or pgkeep copy. {error.what}"
    )
    context.log.warning("repository-dropped", name=name)


def make_alike(
    context: Context,
    members: Sequence[Member],
    layouts: Sequence[Layout],
    request: CopyRequest,
    *,
    targets: Iterable[str] | None = None,
    progress: Progress,
) -> tuple[list[CopyReport], dict[str, PgkeepError]]:
    """Give each of the members (or only ``targets``) what the others have.

    Returns a report of each, and the errors of those for which it could not be finished.
    """
    reports: list[CopyReport] = []
    failed: dict[str, PgkeepError] = {}
    for target in members:
        sources = [one for one in members if one.name not in (target.name, *failed)]
        if (targets is not None and target.name not in targets) or not sources:
            continue
        report = CopyReport(target)
        reports.append(report)
        try:
            catch_up(report, sources, layouts, request, progress=progress)
        except PgkeepError as error:
            failed[target.name] = error
            progress.warn(f"{target} was not caught up, and has no backup too many. {error}")
        context.log.info("caught-up", name=target.name, objects=report.objects)
    return reports, failed


def spread_backup(
    context: Context,
    members: Members,
    store: FanOutStore,
    layout: Layout,
    backup: str,
    *,
    keyring_of: Repository,
    progress: Progress,
) -> list[str]:
    """After the lead has the backup: give it, and what else they lack, to the other members.

    Returns the names of those that have it. Raises ``TooFewCopies``.
    """
    store.settle()
    dropped = {mirror.name: mirror.problem for mirror in store.mirrors if mirror.problem}
    usable = [one for one in members.present if one.name not in dropped]
    request = CopyRequest(keyring_of.keyring, writer_facts())
    reports, failed = make_alike(context, usable, [layout], request, progress=progress)
    lacking = {
        report.target.name
        for report in reports
        if any(what == f"backup {backup}" for what, _ in report.problems)
    }
    for report in reports:
        for what, why in report.problems:
            progress.warn(f"{report.target.name} did not get {what}: {why}")
    lead = members.present[0].name
    have = [
        one.name
        for one in usable
        if one.name == lead or (one.name not in failed and one.name not in lacking)
    ]
    wanted = copies_wanted(context.settings)
    if len(have) < wanted:
        reasons = {one.name: one.error.what for one in members.away}
        reasons |= {name: error.what for name, error in dropped.items()}
        reasons |= {name: error.what for name, error in failed.items()}
        raise TooFewCopies(
            f"The backup {backup} was made, and {len(have)} of the {wanted} repositories that "
            f"shall have it do: {', '.join(have)}.",
            why=" ".join(f"{name}: {what}" for name, what in reasons.items()) or None,
            remedy="When the others can be reached, run pgkeep copy; the next backup does it, too.",
            backup=backup,
            have=", ".join(have),
        )
    return have
