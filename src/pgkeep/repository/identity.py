"""The identity of a repository and its key set: making them, and opening them.

A repository is one record that is created once, and numbered key records of which the newest
wins. Creating is two steps, keys first: a crash between them leaves keys that nobody names, and
the next ``init`` starts again with keys of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgkeep.errors import NoRepository, ObjectNotFound, RepositoryError, WrongIdentity
from pgkeep.repository import layout
from pgkeep.repository.host import HostKey, HostState
from pgkeep.repository.record import build_record, newest, parse_record, publish
from pgkeep.seal import age
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Store


@dataclass(frozen=True)
class Unlock:
    """What the user gave to open secrets; all of it optional."""

    identities: Sequence[str] = ()
    passphrase: str | None = None


@dataclass(frozen=True)
class KeySet:
    """One ``keys`` record (format, section 2.2)."""

    repository_public: str
    metadata_public: str
    recipients: tuple[str, ...]
    passphrase: bool
    repository_secret: str
    metadata_secret: str
    hosts: tuple[dict[str, str], ...] = ()
    previous: tuple[dict[str, str], ...] = ()

    def members(self, fingerprint: str) -> dict[str, Any]:
        """As the members of a record."""
        return {
            "fingerprint": fingerprint,
            "repository_public": self.repository_public,
            "metadata_public": self.metadata_public,
            "recipients": list(self.recipients),
            "passphrase": self.passphrase,
            "repository_secret": self.repository_secret,
            "metadata_secret": self.metadata_secret,
            "hosts": list(self.hosts),
            "previous": list(self.previous),
        }


@dataclass(frozen=True)
class RepositoryIdentity:
    """Who a repository is: its id, and its public keys if it is sealed."""

    id: str
    sealing: str
    hash_salt: str
    keys: KeySet | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        keys = self.keys
        return fingerprint_of(
            self.id,
            keys.repository_public if keys else None,
            keys.metadata_public if keys else None,
        )


def fingerprint_of(
    repository_id: str, repository_public: str | None, metadata_public: str | None
) -> str:
    """32 hex digits that a host pins (format, section 2.2)."""
    text = (
        f"pgkeep fingerprint 1\n{repository_id}\n"
        f"{repository_public or 'none'}\n{metadata_public or 'none'}\n"
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_key_set(
    recipients: Sequence[str], passphrase: str | None, *, hosts: Sequence[tuple[str, str]] = ()
) -> KeySet:
    """New key pairs, their secrets sealed to the recipients or with the passphrase.

    ``hosts`` are (name, public key) of hosts that get the metadata secret: here and not
    afterwards, because only here are the secrets at hand without an identity.
    """
    repository_secret, repository_public = age.generate_identity()
    metadata_secret, metadata_public = age.generate_identity()

    def seal(secret: str) -> str:
        if passphrase is not None:
            return age.seal_with_passphrase(secret.encode(), passphrase).decode()
        return age.seal_to(secret.encode(), recipients, armored=True).decode()

    return KeySet(
        repository_public,
        metadata_public,
        tuple(recipients),
        passphrase is not None,
        seal(repository_secret),
        seal(metadata_secret),
        tuple(_host_entry(metadata_secret, name, public) for name, public in hosts),
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
        members = keys.members(identity.fingerprint)
        publish(store, layout.KEYS, lambda _: build_record("keys", members, at=at, by=by))
    members = {"id": identity.id, "sealing": identity.sealing, "hash_salt": identity.hash_salt}
    record = build_record("repository", members, at=at, by=by)
    store.put(layout.IDENTITY, record, if_absent=True)
    stored = read_identity(store)
    if stored.id != identity.id or stored.fingerprint != identity.fingerprint:
        raise RepositoryError(
            f"Another process initialised {store.url} at the same moment.",
            remedy="Run pgkeep init again to join it.",
        )
    return stored


def read_identity(store: Store) -> RepositoryIdentity:
    """Read who the repository is. Raises ``NoRepository``, ``DamagedObject``, ``FormatTooNew``."""
    try:
        data = store.get(layout.IDENTITY)
    except ObjectNotFound as error:
        raise NoRepository(
            f"There is no pgkeep repository at {store.url}.",
            remedy="Check PGKEEP_REPO, or make one with: pgkeep init",
        ) from error
    members = parse_record(data, layout.IDENTITY, kind="repository")
    keys = read_keys(store) if members["sealing"] == "age" else None
    return RepositoryIdentity(members["id"], members["sealing"], members["hash_salt"], keys)


def read_keys(store: Store) -> KeySet:
    """The newest key set. Raises ``RepositoryError`` when a sealed repository has none."""
    info = newest(store, layout.KEYS)
    if info is None:
        raise RepositoryError(
            f"The repository at {store.url} is sealed, and its keys are missing.",
            why=f"There is nothing under {layout.KEYS}.",
            remedy="Bring back that folder from a copy of the repository.",
        )
    members = parse_record(store.get(info.key), info.key, kind="keys")
    return KeySet(
        members["repository_public"],
        members["metadata_public"],
        tuple(members["recipients"]),
        members["passphrase"],
        members["repository_secret"],
        members["metadata_secret"],
        tuple(members["hosts"]),
        tuple(members["previous"]),
    )


def open_secret(sealed: str, keys: KeySet, unlock: Unlock) -> str:
    """A secret key of the key set, opened with what the user gave.

    Raises ``IdentityNeeded`` or ``WrongIdentity``.
    """
    if keys.passphrase and unlock.passphrase is not None:
        return age.open_with_passphrase(sealed.encode(), unlock.passphrase).decode()
    return age.open_with(sealed.encode(), unlock.identities).decode()


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
    """Publish a key set in which one more host can open the metadata secret."""

    def build(_: int) -> bytes:
        keys = read_keys(store)
        host = _host_entry(metadata_secret, name, public)
        hosts = (*(h for h in keys.hosts if h["public"] != public), host)
        members = keys.members(identity.fingerprint) | {"hosts": list(hosts)}
        return build_record("keys", members, at=at, by=by)

    publish(store, layout.KEYS, build)


def _host_entry(metadata_secret: str, name: str, public: str) -> dict[str, str]:
    sealed = age.seal_to(metadata_secret.encode(), [public], armored=True).decode()
    return {"name": name, "public": public, "metadata_secret": sealed}


def make_keyring(
    identity: RepositoryIdentity, *, host_key: HostKey | None = None, unlock: Unlock | None = None
) -> Keyring:
    """The keyring of this process: public halves, and each secret that can be opened.

    An identity that is given and does not fit is an error (``WrongIdentity``); none given is not.
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
        repository_secrets.append(open_secret(keys.repository_secret, keys, unlock))
        metadata_secrets.append(open_secret(keys.metadata_secret, keys, unlock))
        for pair in keys.previous:
            repository_secrets.append(open_secret(pair["repository_secret"], keys, unlock))
            metadata_secrets.append(open_secret(pair["metadata_secret"], keys, unlock))
    elif host_key is not None:
        metadata_secrets.extend(_host_secret(keys, host_key))
    return Keyring(
        bytes.fromhex(identity.id),
        repository_public=keys.repository_public,
        metadata_public=keys.metadata_public,
        repository_secrets=repository_secrets,
        metadata_secrets=metadata_secrets,
    )


def _host_secret(keys: KeySet, host_key: HostKey) -> list[str]:
    public = age.public_of(host_key.identity)
    for host in keys.hosts:
        if host["public"] == public:
            try:
                sealed = host["metadata_secret"].encode()
                return [age.open_with(sealed, [host_key.identity]).decode()]
            except WrongIdentity:
                return []
    return []


@dataclass(frozen=True)
class Repository:
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
