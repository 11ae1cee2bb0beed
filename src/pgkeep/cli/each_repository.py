"""Commands that work on each repository by itself: what counts in one says nothing of another."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pgkeep.cli.session import open_host_state, unlock_of
from pgkeep.config import Settings
from pgkeep.errors import MirrorsDiffer, NoSuchBackup, NoSuchDump, PgkeepError, UsageError
from pgkeep.repository.identity import Repository, open_repository

if TYPE_CHECKING:
    from pgkeep.cli.context import Context

AGAIN = "Run the command again when they answer."
NOT_FINISHED = "Expiry did not come to its end in {}."
Failed = Mapping[str, PgkeepError]
"""Why it could not be done, by the names of repositories."""
_T = TypeVar("_T")


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


def in_all(each: Each, act: Callable[[One], _T]) -> tuple[list[tuple[One, _T]], Failed]:
    """Do it in each that answered; what came of it, and the errors of those where it was not done
    to its end, the ones that are away among them. The error of the only one is raised.
    """
    found: list[tuple[One, _T]] = []
    failed = dict(each.away)
    for one in each.present:
        try:
            found.append((one, act(one)))
        except PgkeepError as error:
            if len(each.present) == 1 and not each.away:
                raise
            failed[one.name] = error
    return found, failed


def check_failed(failed: Failed, what: str, *, remedy: str) -> None:
    """Raise ``MirrorsDiffer`` if there are any; ``{}`` in ``what`` stands for their names."""
    if failed:
        raise MirrorsDiffer(
            what.replace("{}", ", ".join(failed)),
            why=" ".join(error.what for error in failed.values()),
            remedy=remedy,
        )


class Things(NamedTuple):
    """What a command is about: ``noun``, and what is raised, and advised, where there is none."""

    noun: str
    error: type[PgkeepError]
    remedy: str


BACKUPS = Things(
    "backup", NoSuchBackup, "pgkeep list shows all, and with --deleted those in the trash, too."
)
DUMPS = Things("dump", NoSuchDump, "pgkeep dump list shows all.")


def matching(
    known: Collection[str], given: Sequence[str], away: Failed, things: Things
) -> list[str]:
    """Things by their names, unmistakable beginnings of them, or ``latest``.

    Raises the error of these ``things``; ``MirrorsDiffer`` for one that may be in a repository
    which is ``away``.
    """
    found = []
    for text in given:
        names = sorted(name for name in known if name.startswith(text))
        if text in known:
            names = [text]
        if text == "latest" and known:
            names = [max(known)]
        if not names:
            check_failed(
                away,
                f"There is no {things.noun} {text!r}, unless in {{}}, which did not answer.",
                remedy=AGAIN,
            )
        if len(names) != 1:
            shown = ", ".join((names or sorted(known))[-5:]) or "none"
            raise things.error(
                f"{text!r} is the beginning of {len(names)} {things.noun}s."
                if names
                else f"There is no {things.noun} {text!r}.",
                why=f"There {'are' if names else 'is, last'}: {shown}.",
                remedy=things.remedy,
            )
        found.append(names[0])
    return list(dict.fromkeys(found))
