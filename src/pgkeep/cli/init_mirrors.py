"""What ``init`` does for mirrors: makes each of them, or sees that it is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgkeep.config.mirrors import MAIN
from pgkeep.errors import PgkeepError
from pgkeep.mirror.catch_up import copy_systems
from pgkeep.mirror.member import Member, join, read_member_identity

if TYPE_CHECKING:
    from pgkeep.cli.context import Context


class JoinedMirror(NamedTuple):
    """One mirror as it is now. ``losses`` are what its store cannot do."""

    name: str
    url: str
    made: bool
    losses: tuple[str, ...]


def join_mirrors(context: Context, main: Member) -> list[JoinedMirror]:
    """Bring keys, identity and the cluster's systems to each mirror, and try its store out.

    Raises ``RepositoryError`` for one that is another repository, and what the stores raise.
    """
    from pgkeep.cli.members import open_member
    from pgkeep.setup.papers import put_rescue
    from pgkeep.setup.probe import probe_store

    joined = []
    for name, settings in context.settings.mirrors.items():
        mirror = open_member(context, name, settings, create=True)
        made = join(mirror, [main])
        put_rescue(mirror.store)
        losses = probe_store(mirror.store).losses
        copy_systems(main.store, mirror.store, context.settings.cluster)
        joined.append(JoinedMirror(name, mirror.url, made, tuple(losses)))
        context.log.info("mirror", name=name, made=made)
    return joined


def bring_back(context: Context) -> None:
    """Where the main repository is gone and a mirror is there, make main a mirror of that: another
    identity in its place would make of one repository two."""
    from pgkeep.cli.members import open_member

    mirrors = []
    for name, settings in context.settings.mirrors.items():
        try:
            member = open_member(context, name, settings)
            if read_member_identity(member) is not None:
                mirrors.append(member)
        except PgkeepError as error:
            context.log.info("mirror-not-there", name=name, reason=error.what)
    if not mirrors:
        return
    main = open_member(context, MAIN, context.settings, create=True)
    if read_member_identity(main) is None:
        join(main, mirrors)
        copy_systems(mirrors[0].store, main.store, context.settings.cluster)
        context.output.warn(
            f"{main} was empty, and is a mirror of {mirrors[0]} again. Give it what that has with: "
            "pgkeep copy"
        )
