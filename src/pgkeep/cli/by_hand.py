"""What ``delete``, ``undelete``, ``hold`` and ``release`` have in common: the same for each of
several repositories that has the backup."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from pgkeep.cli.each_repository import One, matching, open_each
from pgkeep.cli.systems import system_layout
from pgkeep.errors import MirrorsDiffer
from pgkeep.repository.catalogue import stored_manifests
from pgkeep.repository.layout import Layout

if TYPE_CHECKING:
    from pgkeep.cli.context import Context

Act = Callable[[One, Layout, Sequence[str]], Collection[str]]
"""Does it, and returns the backups that it was done to."""


def in_each(context: Context, act: Act, *, said: str, nothing: str) -> int:
    """Do it in each repository that has one of the backups which the command line names.

    ``said`` and ``nothing`` are sentences in which ``{}`` stands for the backups. Raises
    ``NoSuchBackup`` when none has them, and ``MirrorsDiffer`` when one could not be reached.
    """
    args = context.args
    each = open_each(context, args.only)
    places = [
        (one, system_layout(context.settings, one.repository, system=args.system))
        for one in each.present
    ]
    have = {one.name: set(stored_manifests(one.repository.store, layout)) for one, layout in places}
    wanted = matching(set().union(*have.values()), args.backup)
    done: dict[str, list[str]] = {}
    for one, layout in places:
        here = [backup for backup in wanted if backup in have[one.name]]
        if here:
            done[one.name] = sorted(act(one, layout, here))
    context.output.result(
        {"backups": wanted, "done": done, "away": sorted(each.away)},
        lambda: _render(context, wanted, done, said=said, nothing=nothing),
    )
    if each.away:
        names = ", ".join(each.away)
        raise MirrorsDiffer(
            f"It could not be done in {names}.",
            why=next(iter(each.away.values())).what,
            remedy="Run the command again when they answer.",
        )
    return 0


def _render(
    context: Context, wanted: list[str], done: dict[str, list[str]], *, said: str, nothing: str
) -> None:
    for name, backups in done.items():
        where = f" in {name}" if context.settings.mirrors else ""
        if backups:
            context.output.say(said.format(", ".join(backups)) + where + ".")
        if left := sorted(set(wanted) - set(backups)):
            context.output.say(nothing.format(", ".join(left)) + where + ".")
