"""Opening repositories for a check, which is just when something about them may be damaged.

A damaged key record is left out, for the one before it opens the same repository to all but the
newest host. With none left, a scrub is still possible: it needs the repository's id alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgkeep.cli.members import MIRROR_PATIENCE_SECONDS, open_member, open_members, reading_store
from pgkeep.cli.outages import PATIENCE_SECONDS
from pgkeep.cli.session import open_host_state, unlock_of
from pgkeep.config.mirrors import MAIN
from pgkeep.errors import KeysChanged, PgkeepError, RepositoryError, StoreError, UsageError
from pgkeep.repository.identity import (
    Repository,
    RepositoryIdentity,
    open_repository,
    read_identity,
    read_repository_id,
)
from pgkeep.seal.keyring import Keyring
from pgkeep.verify.root_records import Without, look_at_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgkeep.cli.context import Context
    from pgkeep.mirror.member import Member
    from pgkeep.storage.interface import Store
    from pgkeep.verify.problem import Problem


class Opened(NamedTuple):
    """The repositories that are checked, with the keys that were opened.

    ``root`` is what is wrong with the records above all systems, by the repository's name.
    ``has_keys``: whether there is a sound key record, or none is needed.
    """

    members: tuple[Member, ...]
    away: Mapping[str, PgkeepError]
    repository: Repository
    root: Mapping[str, list[Problem]]
    has_keys: bool = True


def open_for_check(context: Context) -> Opened:
    """Raises as ``open_members`` and ``open_repository``, but for damaged key records."""
    settings = context.settings
    seconds = MIRROR_PATIENCE_SECONDS if settings.mirrors else PATIENCE_SECONDS

    def read(store: Store) -> RepositoryIdentity:
        return read_identity(_readable(store, settings.cluster))

    try:
        members = open_members(context, context.owner_uid, seconds=seconds, read=read)
        host = open_host_state(settings, context.owner_uid)
        store = reading_store(context, members)
        unlock = unlock_of(settings)
        repository = open_repository(_readable(store, settings.cluster), host, unlock=unlock)
    except (RepositoryError, KeysChanged) as error:
        return _without_keys(context, error, seconds)
    root = {one.name: look_at_root(one.store, settings.cluster) for one in members.present}
    away = {one.name: one.error for one in members.away}
    return Opened(members.present, away, repository._replace(store=store), root)


def _readable(store: Store, cluster: str) -> Store:
    return Without(store, {one.key for one in look_at_root(store, cluster)})


def _without_keys(context: Context, error: PgkeepError, seconds: float) -> Opened:
    """The only repository, of which no key record can be read; else ``error``."""
    settings = context.settings
    if settings.mirrors or settings.repo is None:
        raise error
    member = open_member(context, MAIN, settings, seconds=seconds)
    try:
        root = look_at_root(member.store, settings.cluster)
        repository_id = read_repository_id(member.store)
    except (StoreError, RepositoryError):
        raise error from None
    if not root:
        raise error
    keyring = Keyring(bytes.fromhex(repository_id), repository_public="", metadata_public="")
    identity = RepositoryIdentity(repository_id, "age", "", None)
    repository = Repository(member.store, identity, keyring)
    return Opened((member,), {}, repository, {member.name: root}, has_keys=False)


def choose(opened: Opened, only: str | None) -> tuple[Member, ...]:
    """Those that are to be checked: all, or the one of this name or URL. Raises ``UsageError``,
    or why that one is away."""
    if only is None:
        return opened.members
    chosen = tuple(one for one in opened.members if only in (one.name, one.url))
    if only in opened.away:
        raise opened.away[only]
    if not chosen:
        known = ", ".join(one.name for one in opened.members)
        raise UsageError(f"There is no repository {only!r}.", remedy=f"Known are: {known}.")
    return chosen
