"""Commands that work on each repository by itself: what counts in one says nothing of another."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.cli.session import open_host_state, unlock_of
from pgkeep.config import Settings
from pgkeep.errors import NoSuchBackup, PgkeepError, UsageError
from pgkeep.repository.identity import Repository, open_repository

if TYPE_CHECKING:
    from pgkeep.cli.context import Context


class One(NamedTuple):
    """A repository by its name (``main``, or a mirror's), with the settings that are its own."""

    name: str
    settings: Settings
    repository: Repository


class Each(NamedTuple):
    """Those that answered, and the errors of those that did not."""

    present: list[One]
    away: dict[str, PgkeepError]


def add_only_argument(parser: ArgumentParser) -> None:
    """The option that chooses one."""
    parser.add_argument(
        "--only",
        metavar="NAME",
        help="only in this repository, by its name (main is that of PGKEEP_REPO); else in each",
    )


def open_each(
    context: Context, only: str | None = None, *, among: Collection[str] | None = None
) -> Each:
    """Each repository that the settings name, or of those only the ones ``among`` these, its calls
    tried again for a while.

    Raises ``UsageError`` for an unknown name, and the error of the only one.
    """
    from pgkeep.cli.members import MIRROR_PATIENCE_SECONDS, identify, settings_by_name
    from pgkeep.cli.outages import PATIENCE_SECONDS

    settings = context.settings
    named = settings_by_name(settings)
    if only is not None and only not in named:
        raise UsageError(
            f"There is no repository {only!r}.", remedy=f"Known are: {', '.join(named)}."
        )
    seconds = MIRROR_PATIENCE_SECONDS if settings.mirrors else PATIENCE_SECONDS
    asked = {name: one for name, one in named.items() if among is None or name in among}
    members = identify(context, context.owner_uid, asked, seconds=seconds)
    host = open_host_state(settings, context.owner_uid)
    present = [
        One(one.name, named[one.name], open_repository(one.store, host, unlock=unlock_of(settings)))
        for one in members.present
        if only in (None, one.name)
    ]
    away = {one.name: one.error for one in members.away if only in (None, one.name)}
    if not present:
        raise next(iter(away.values()))
    return Each(present, away)


def matching(known: Collection[str], given: Sequence[str]) -> list[str]:
    """Backups by their names, unmistakable beginnings of them, or ``latest``.

    Raises ``NoSuchBackup``.
    """
    found = []
    for text in given:
        names = sorted(name for name in known if name.startswith(text))
        if text in known:
            names = [text]
        if text == "latest" and known:
            names = [max(known)]
        if len(names) != 1:
            shown = ", ".join((names or sorted(known))[-5:]) or "none"
            raise NoSuchBackup(
                f"{text!r} is the beginning of {len(names)} backups."
                if names
                else f"There is no backup {text!r}.",
                why=f"There {'are' if names else 'is, last'}: {shown}.",
                remedy="pgkeep list shows all, and with --deleted those in the trash, too.",
            )
        found.append(names[0])
    return list(dict.fromkeys(found))
