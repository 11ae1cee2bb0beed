"""One repository among several, and whether it is the same as the others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from pgkeep.errors import NoRepository, ObjectExists, ObjectNotFound, RepositoryError
from pgkeep.repository import layout
from pgkeep.repository.identity import RepositoryIdentity, read_identity
from pgkeep.repository.record import list_numbered, parse_record
from pgkeep.storage.fallback import FallbackStore
from pgkeep.storage.interface import Store


class Member(NamedTuple):
    """A repository by its name (``main``, or a mirror's)."""

    name: str
    store: Store

    @property
    def url(self) -> str:
        return self.store.url

    def __str__(self) -> str:
        return f"{self.name} ({self.url})" if self.name else self.url


def check_same_identity(
    found: RepositoryIdentity, member: Member, known: RepositoryIdentity, of: str
) -> None:
    """Raise ``RepositoryError`` unless the member is a mirror of the repository ``known``.

    Its keys count, too: what is sealed to others would be somebody else's to read.
    """
    if found.id == known.id and found.fingerprint == known.fingerprint:
        return
    what = "is another repository" if found.id != known.id else "has other keys"
    raise RepositoryError(
        f"{member} is not a mirror of {of}: it {what}.",
        why=f"Its fingerprint is {found.fingerprint}, and {known.fingerprint} was expected.",
        remedy="Mirrors are made by pgkeep, in an empty place: name one in the settings and run "
        "pgkeep init, or pgkeep copy --to URL. Nothing was written to it.",
        repository=member.url,
    )


def read_member_identity(member: Member) -> RepositoryIdentity | None:
    """Who it is; None when nothing was made there yet."""
    try:
        return read_identity(member.store)
    except NoRepository:
        return None


def join(target: Member, sources: Sequence[Member]) -> bool:
    """Make the target a mirror of the sources, or see that it is one; True if it was made.

    Keys come first: without the record of the repository they count for nothing. Raises
    ``RepositoryError`` for a target that is another repository, and what the stores raise.
    """
    source = FallbackStore([member.store for member in sources])
    known = read_identity(source)
    found = read_member_identity(target)
    if found is not None:
        check_same_identity(found, target, known, str(sources[0]))
    have = {info.key for info in target.store.list(layout.KEYS)}
    for info in list_numbered(source, layout.KEYS):
        if info.key not in have:
            data = source.get(info.key)
            parse_record(data, info.key, kind="keys")
            _put(target.store, info.key, data)
    if found is not None:
        return False
    with suppress(ObjectNotFound):
        _put(target.store, layout.README, source.get(layout.README))
    _put(target.store, layout.IDENTITY, source.get(layout.IDENTITY))
    check_same_identity(read_identity(target.store), target, known, str(sources[0]))
    return True


def _put(store: Store, key: str, data: bytes) -> None:
    with suppress(ObjectExists):  # another copy was faster; the identity is read again at the end
        store.put(key, data, if_absent=True)
