"""The identity of a repository and its key set: making them, and opening them.

A repository is one record that is created once, and numbered key records of which the newest that
names the repository wins. Creating is two steps, keys first: a crash between them leaves keys
of a repository that does not exist, and so does a second ``init`` that comes too late. Neither
counts, because key records say whose they are.

The types are named tuples and not dataclasses, because ``wal-push`` starts through this module.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from pgkeep.errors import (
    DamagedObject,
    KeysChanged,
    NoRepository,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
)
from pgkeep.repository import layout
from pgkeep.repository.keys import KeySet as KeySet
from pgkeep.repository.keys import Unlock as Unlock
from pgkeep.repository.keys import (
    check_pair,
    check_proof,
    host_entry,
    host_secret,
    open_chained,
    open_first,
    parse_key_set,
)
from pgkeep.repository.keys import fingerprint_of as fingerprint_of
from pgkeep.repository.keys import make_key_set as make_key_set
from pgkeep.repository.keys import open_secret as open_secret
from pgkeep.repository.record import build_record, member, publish, read_record
from pgkeep.seal import age
from pgkeep.seal.keyring import Keyring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgkeep.repository.host import HostKey, HostState
    from pgkeep.storage.interface import Store

_HEX = frozenset("0123456789abcdef")


class RepositoryIdentity(NamedTuple):
    """Who a repository is: its id, and its public keys if it is sealed."""

    id: str
    sealing: str
    hash_salt: str
    keys: KeySet | None = None

    @property
    def fingerprint(self) -> str:
        keys = self.keys
        return fingerprint_of(
            self.id,
            keys.repository_public if keys else None,
            keys.metadata_public if keys else None,
        )


def create_repository(
    store: Store, keys: KeySet | None, *, at: str, by: dict[str, Any]
) -> RepositoryIdentity:
    """Create the repository at an empty place.

    Raises ``RepositoryError`` when there is one already, or when somebody else was faster.
    """
    identity = RepositoryIdentity(
        os.urandom(16).hex(), "age" if keys else "none", os.urandom(32).hex(), keys
    )
    if keys is not None:
        record = build_record("keys", keys.members(identity.id), at=at, by=by)
        publish(store, layout.KEYS, lambda _: record)
    members = {"id": identity.id, "sealing": identity.sealing, "hash_salt": identity.hash_salt}
    record = build_record("repository", members, at=at, by=by)
    try:
        store.put(layout.IDENTITY, record, if_absent=True)
    except ObjectExists as error:
        # Unless it is the echo of our own attempt, whose answer was lost.
        if store.get(layout.IDENTITY) != record:
            raise _too_late(store) from error
    stored = read_identity(store)
    if stored != identity:
        raise _too_late(store)
    return stored


def read_identity(store: Store) -> RepositoryIdentity:
    """Read who the repository is. Raises ``NoRepository``, ``DamagedObject``, ``FormatTooNew``."""
    members, repository_id = _read_own_record(store)
    sealing = member(members, "sealing", str, name=layout.IDENTITY)
    if sealing not in ("age", "none"):
        raise DamagedObject(f"{layout.IDENTITY} names an unknown way of sealing, {sealing[:20]!r}.")
    keys = read_keys(store, repository_id) if sealing == "age" else None
    return RepositoryIdentity(repository_id, sealing, _hexadecimal(members, "hash_salt", 64), keys)


def read_repository_id(store: Store) -> str:
    """The id alone, 32 hexadecimal digits, with one request. Raises as :func:`read_identity`."""
    return _read_own_record(store)[1]


def read_keys(store: Store, repository_id: str | None = None) -> KeySet:
    """The newest key set of a repository. Raises ``RepositoryError`` when there is none."""
    return parse_key_set(*_newest_keys(store, repository_id or read_identity(store).id))


def add_host(
    store: Store,
    identity: RepositoryIdentity,
    *,
    metadata_secret: str,
    name: str,
    public: str,
    at: str,
    by: dict[str, Any],
) -> None:
    """Publish a key set in which one more host can open the metadata secret.

    Raises ``KeysChanged`` when the repository has other keys by now.
    """

    def build(_: int) -> bytes:
        members, key = _newest_keys(store, identity.id)
        keys = parse_key_set(members, key)
        if keys.metadata_public != age.public_of(metadata_secret):
            raise KeysChanged(
                f"The repository at {store.url} has new keys since a moment ago.",
                remedy="Run the command again.",
            )
        host = host_entry(metadata_secret, name, public)
        hosts = (*(h for h in keys.hosts if h["public"] != public), host)
        # What a newer version wrote beside is carried on.
        rest = {k: v for k, v in members.items() if k not in ("pgkeep", "type", "at", "by")}
        return build_record("keys", {**rest, "hosts": list(hosts)}, at=at, by=by)

    publish(store, layout.KEYS, build)


def make_keyring(
    identity: RepositoryIdentity, *, host_key: HostKey | None = None, unlock: Unlock | None = None
) -> Keyring:
    """The keyring of this process: public halves, and each secret that can be opened.

    An identity that is given and does not fit is an error (``WrongIdentity``); none given is not.
    Raises ``KeysChanged`` when the secrets are not those of the public keys.
    """
    unlock = unlock or Unlock()
    keys = identity.keys
    if keys is None:
        return Keyring(
            bytes.fromhex(identity.id),
            repository_public=None,
            metadata_public=None,
            hash_salt=bytes.fromhex(identity.hash_salt),
        )
    repository_secrets: list[str] = []
    metadata_secrets: list[str] = []
    if unlock.identities or (keys.passphrase and unlock.passphrase is not None):
        repository_secrets.append(open_first(keys, unlock))
        metadata_secrets.append(open_chained(keys.metadata_secret, repository_secrets[0]))
        check_pair(repository_secrets[0], keys.repository_public)
    elif host_key is not None:
        metadata_secrets.extend(host_secret(keys, host_key))
    if metadata_secrets:
        check_pair(metadata_secrets[0], keys.metadata_public)
        check_proof(keys, metadata_secrets[0])
    for pair in keys.previous:
        if repository_secrets:
            repository_secrets.append(
                open_chained(pair["repository_secret"], repository_secrets[0])
            )
        if metadata_secrets:
            metadata_secrets.append(open_chained(pair["metadata_secret"], metadata_secrets[0]))
    return Keyring(
        bytes.fromhex(identity.id),
        repository_public=keys.repository_public,
        metadata_public=keys.metadata_public,
        repository_secrets=repository_secrets,
        metadata_secrets=metadata_secrets,
    )


class Repository(NamedTuple):
    """An open repository: where it is, who it is, and what this process can open."""

    store: Store
    identity: RepositoryIdentity
    keyring: Keyring


def open_repository(store: Store, host: HostState, *, unlock: Unlock | None = None) -> Repository:
    """Read the identity, check this host's pin, and collect the keys.

    Raises ``NoRepository``, ``KeysChanged``, ``WrongIdentity``, and what the store raises.
    """
    identity = read_identity(store)
    host.check_pin(store.url, identity.id, identity.fingerprint)
    keyring = make_keyring(identity, host_key=host.host_key(identity.id), unlock=unlock)
    return Repository(store, identity, keyring)


def _read_own_record(store: Store) -> tuple[dict[str, Any], str]:
    try:
        members = read_record(store, layout.IDENTITY, kind="repository")
    except ObjectNotFound as error:
        raise NoRepository(
            f"There is no pgkeep repository at {store.url}.",
            remedy="Check PGKEEP_REPO, or make one with: pgkeep init",
        ) from error
    # The id becomes the name of a local file: it must be what it should be.
    return members, _hexadecimal(members, "id", 32)


def _newest_keys(store: Store, repository_id: str) -> tuple[dict[str, Any], str]:
    """The newest key record of this repository, and its key."""
    found = [info.key for info in store.list(layout.KEYS)]
    for key in sorted(found, reverse=True):
        if len(key) == len(layout.KEYS) + layout.NUMBER_DIGITS:
            members = read_record(store, key, kind="keys")
            if members.get("repository") == repository_id:
                return members, key
    raise RepositoryError(
        f"The repository at {store.url} is sealed, and its keys are missing.",
        why=f"There are none of this repository under {layout.KEYS}.",
        remedy="Bring back that folder from a copy of the repository.",
    )


def _hexadecimal(members: Mapping[str, Any], name: str, digits: int) -> str:
    text = member(members, name, str, name=layout.IDENTITY)
    if len(text) != digits or not _HEX.issuperset(text):
        raise DamagedObject(f"{layout.IDENTITY} is damaged: its {name} is malformed.")
    return text


def _too_late(store: Store) -> RepositoryError:
    return RepositoryError(
        f"There is a repository at {store.url} already; another process may have made it just now.",
        remedy="Run pgkeep init again to join it.",
    )
