"""The repositories that the settings name, one by one: ``main``, then the mirrors in their order.

One that does not answer is left aside for the run and said to be; what that means is the command's
to decide. One that answers and is another repository is an error, always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.cli.session import open_host_state
from pgkeep.config import Settings
from pgkeep.config.mirrors import MAIN
from pgkeep.errors import ConfigError, NoRepository, PgkeepError, StoreError
from pgkeep.mirror.member import Member, check_same_identity
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import RepositoryIdentity, read_identity
from pgkeep.storage.outage import Outages

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.storage.interface import Store

MIRROR_PATIENCE_SECONDS = 60.0
"""For how long one of several is tried again that was there: then the others go on without it."""
_READING_SECONDS = 3.0
_FIRST_SECONDS = 5.0


class Away(NamedTuple):
    """A repository that cannot be used now, and why."""

    name: str
    error: PgkeepError


class Members(NamedTuple):
    """Those that answered and are one repository, in order, and those that did not."""

    present: tuple[Member, ...]
    away: tuple[Away, ...]
    identity: RepositoryIdentity


def settings_by_name(settings: Settings) -> dict[str, Settings]:
    """The settings of each repository that is named. Raises ``ConfigError`` without any."""
    if settings.repo is None:
        raise ConfigError(
            "No repository is named.",
            remedy="Set PGKEEP_REPO, or give --repo, for example file:///var/backups/pgkeep.",
        )
    return {MAIN: settings, **settings.mirrors}


def open_member(
    context: Context,
    name: str,
    settings: Settings,
    *,
    seconds: float = MIRROR_PATIENCE_SECONDS,
    create: bool = False,
) -> Member:
    """One of several, its calls tried for ``seconds``. Raises what opening raises."""
    from pgkeep.cli.session import open_url_of
    from pgkeep.storage.retry import RetryingStore

    outages = Outages(first_seconds=_FIRST_SECONDS, stop=context.outages.stop)
    store = open_url_of(settings, create=create)
    return Member(name, RetryingStore(store, deadline_seconds=seconds, outages=outages))


def open_members(
    context: Context,
    owner_uid: int,
    *,
    seconds: float = MIRROR_PATIENCE_SECONDS,
    read: Callable[[Store], RepositoryIdentity] = read_identity,
) -> Members:
    """Open each, and see that they are one repository, and those that this host knows.

    ``read`` tells who one of them is. Warns of each that is away. Raises ``RepositoryError``,
    ``KeysChanged``, and the first error when none answers.
    """
    named = settings_by_name(context.settings)
    return identify(context, owner_uid, named, seconds=seconds, read=read)


def identify(
    context: Context,
    owner_uid: int,
    named: Mapping[str, Settings],
    *,
    seconds: float,
    read: Callable[[Store], RepositoryIdentity] = read_identity,
) -> Members:
    """As :func:`open_members`, of these."""
    host = open_host_state(context.settings, owner_uid)
    present: list[Member] = []
    away: list[Away] = []
    known: RepositoryIdentity | None = None
    for name, settings in named.items():
        try:
            member = open_member(context, name, settings, seconds=seconds)
            found = read(member.store)
        except (StoreError, NoRepository) as error:
            away.append(Away(name, error))
            continue
        if known is not None:
            check_same_identity(found, member, known, str(present[0]))
        check_member_pin(host, member, found)
        known = known or found
        present.append(member)
    if known is None:
        raise away[0].error
    for one in away:
        warn_away(context, one)
    context.members = tuple(member.name for member in present)
    return Members(tuple(present), tuple(away), known)


def check_member_pin(host: HostState, member: Member, identity: RepositoryIdentity) -> None:
    """Raise ``KeysChanged`` unless it is what this host saw at its URL before."""
    host.check_pin(member.url, identity.id, identity.fingerprint)


def warn_away(context: Context, away: Away) -> None:
    """Say that one is left aside."""
    what = away.error.what
    tell = context.shown or context.output
    tell.warn(f"The repository {away.name!r} is left aside: {what}")
    context.log.warning("repository-away", name=away.name)


def reading_store(context: Context, members: Members) -> Store:
    """What all of them have, read as one store."""
    from pgkeep.cli.outages import PATIENCE_SECONDS
    from pgkeep.storage.fallback import FallbackStore
    from pgkeep.storage.retry import RetryingStore

    def tell(text: str) -> None:
        (context.shown or context.output).warn(text)

    several = FallbackStore([member.store for member in members.present], tell=tell)
    return RetryingStore(several, deadline_seconds=PATIENCE_SECONDS, outages=context.outages)


def reading_seconds(settings: Settings) -> float:
    """How long one store is tried before another is asked; the only one, for longer."""
    from pgkeep.cli.outages import PATIENCE_SECONDS

    return _READING_SECONDS if settings.mirrors else PATIENCE_SECONDS
