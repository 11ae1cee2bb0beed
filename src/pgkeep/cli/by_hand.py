"""What deleting, undeleting, holding and releasing have in common: the same for each of several
repositories that has the backup, or the dump."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from pgkeep.cli.each_repository import (
    AGAIN,
    BACKUPS,
    One,
    Things,
    check_failed,
    matching,
    open_each,
)
from pgkeep.cli.systems import system_layout
from pgkeep.errors import PgkeepError
from pgkeep.repository.catalogue import stored_manifests
from pgkeep.repository.layout import Layout

if TYPE_CHECKING:
    from pgkeep.cli.context import Context

Act = Callable[[One, Layout, Sequence[str]], Collection[str]]
"""Does it, and returns the things that it was done to."""


def _stored_backups(one: One, layout: Layout) -> Collection[str]:
    return stored_manifests(one.repository.store, layout)


def in_each(
    context: Context,
    act: Act,
    given: Sequence[str],
    *,
    said: str,
    nothing: str = "",
    things: Things = BACKUPS,
    stored: Callable[[One, Layout], Collection[str]] = _stored_backups,
    again: str = AGAIN,
    more: dict[str, Any] | None = None,
) -> int:
    """Do it in each repository that has one of the ``given``.

    ``said`` and ``nothing`` are sentences in which ``{}`` stands for names: of those to which it
    was done, and of those that are there and to which it was not. ``stored`` tells what a
    repository has. ``more`` is for ``--json``.

    Raises the error of the ``things`` when none has them, and ``MirrorsDiffer`` when one could not
    be reached.
    """
    args = context.args
    each = open_each(context, args.only)
    places = [
        (one, system_layout(context.settings, one.repository, system=args.system))
        for one in each.present
    ]
    have = {one.name: set(stored(one, layout)) for one, layout in places}
    wanted = matching(set().union(*have.values()), given, each.away, things)
    done: dict[str, list[str]] = {}
    lines = []
    for one, layout in places:
        here = [name for name in wanted if name in have[one.name]]
        if not here:
            continue
        try:
            done[one.name] = sorted(act(one, layout, here))
        except PgkeepError as error:
            if done:
                error.what += f" Before, it was done in {', '.join(done)}."
            raise
        where = f" in {one.name}" if context.settings.mirrors else ""
        for text, names in (
            (said, {*done[one.name]}),
            (nothing, {*here} - {*done[one.name]}),
            ("Not there: {}", {*wanted} - {*here}),
        ):
            if names:
                lines.append(text.replace("{}", ", ".join(sorted(names))) + where + ".")
    context.output.result(
        {f"{things.noun}s": wanted, "done": done, "away": sorted(each.away), **(more or {})},
        lambda: context.output.say("\n".join(lines)),
    )
    check_failed(each.away, "It could not be done in {}.", remedy=again)
    return 0
