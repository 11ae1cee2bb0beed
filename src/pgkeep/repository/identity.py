"""The identity of a repository and its key set: making them, and opening them.

A repository is one record that is created once, and numbered key records of which the newest that
names the repository wins. Creating is two steps, keys first: a crash between them leaves keys
of a repository that does not exist, and so does a second ``init`` that comes too late. Neither
counts, because key records say whose they are.

One chain opens everything: the users' identities (or the passphrase) open the repository secret,
that opens the metadata secret, and each of the two opens its predecessor. So a passphrase costs one
scrypt, and a rotation seals nothing to anybody anew but the two new secrets.

Everything here comes from a store that others may write to. What is found is checked against the
public halves before it is used; that those are the right ones is what the pin is for.

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
    SealError,
    WrongIdentity,
)
from pgkeep.repository import layout
from pgkeep.repository.record import build_record, member, parse_record, publish
from pgkeep.seal import age
from pgkeep.seal.keyring import Keyring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgkeep.repository.host import HostKey, HostState
    from pgkeep.storage.interface import Store

_HEX = frozenset("0123456789abcdef")
_PROOF_CONTEXT = "pgkeep 2026-11-20 recipients"
_KEYS_TEXTS = ("repository_public", "metadata_public", "repository_secret", "metadata_secret")
_HOST_TEXTS = ("name", "public", "metadata_secret")


class Unlock(NamedTuple):
    """What the user gave to open secrets; all of it optional."""

    identities: Sequence[str] = ()
    passphrase: str | None = None

    def __repr__(self) -> str:
        return f"Unlock({len(self.identities)} identities, passphrase={bool(self.passphrase)})"


class KeySet(NamedTuple):
    """One ``keys`` record (format, section 2.2)."""

    repository_public: str
    metadata_public: str
    recipients: tuple[str, ...]
    passphrase: bool
    repository_secret: str
    metadata_secret: str
    hosts: tuple[dict[str, str], ...] = ()
    previous: tuple[dict[str, str], ...] = ()
    proof: str = ""

    def __repr__(self) -> str:
        return f"KeySet({self.repository_public}, {self.metadata_public}, …)"

    def members(self, repository_id: str) -> dict[str, Any]:
        """As the members of a record."""
        public, metadata = self.repository_public, self.metadata_public
        return {
            "repository": repository_id,
            "fingerprint": fingerprint_of(repository_id, public, metadata),
            "repository_public": public,
            "metadata_public": metadata,
            "recipients": list(self.recipients),
            "passphrase": self.passphrase,
            "repository_secret": self.repository_secret,
            "metadata_secret": self.metadata_secret,
            "proof": self.proof,
            "hosts": list(self.hosts),
            "previous": list(self.previous),
        }


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


def fingerprint_of(
    repository_id: str, repository_public: str | None, metadata_public: str | None
) -> str:
    """32 hex digits that a host pins (format, section 2.2)."""
    from blake3 import blake3

    text = (
        f"pgkeep fingerprint 1\n{repository_id}\n"
        f"{repository_public or 'none'}\n{metadata_public or 'none'}\n"
    )
    return blake3(text.encode()).hexdigest(length=16)


def recipients_proof(metadata_secret: str, publics: Sequence[str], recipients: Sequence[str]) -> str:
    """64 hex digits that only who has the metadata secret can make (format, section 2.2).

    ``publics`` are the repository's and the metadata key's public halves.
    """
    from blake3 import blake3

    key = blake3(metadata_secret.encode(), derive_key_context=_PROOF_CONTEXT).digest()
    text = "".join(f"{line}\n" for line in (*publics, *recipients))
    return blake3(text.encode(), key=key).hexdigest()


def make_key_set(
    recipients: Sequence[str], passphrase: str | None, *, hosts: Sequence[tuple[str, str]] = ()
) -> KeySet:
    """New key pairs, their secrets sealed to the recipients or with the passphrase.

    ``hosts`` are (name, public key) of hosts that get the metadata secret: here and not
    afterwards, because only here are the secrets at hand without an identity.
    Raises ``ConfigError`` when nothing is given that would open them, or no sound recipient.
    """
    repository_secret, repository_public = age.generate_identity()
    metadata_secret, metadata_public = age.generate_identity()
    secret = repository_secret.encode()
    if passphrase is not None:
        sealed = age.seal_with_passphrase(secret, passphrase)
        recipients = ()
    else:
        sealed = age.seal_to(secret, recipients, armored=True)
    chained = age.seal_to(metadata_secret.encode(), [repository_public], armored=True)
    return KeySet(
        repository_public,
        metadata_public,
        tuple(recipients),
        passphrase is not None,
        sealed.decode(),
        chained.decode(),
        tuple(_host_entry(metadata_secret, name, public) for name, public in hosts),
        (),
        recipients_proof(metadata_secret, (repository_public, metadata_public), recipients),
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
    try:
        data = store.get(layout.IDENTITY)
    except ObjectNotFound as error:
        raise NoRepository(
            f"There is no pgkeep repository at {store.url}.",
            remedy="Check PGKEEP_REPO, or make one with: pgkeep init",
        ) from error
    members = parse_record(data, layout.IDENTITY, kind="repository")
    # The id becomes the name of a local file: it must be what it should be.
    repository_id = _hexadecimal(members, "id", 32)
    sealing = member(members, "sealing", str, name=layout.IDENTITY)
    if sealing not in ("age", "none"):
        raise DamagedObject(f"{layout.IDENTITY} names an unknown way of sealing, {sealing[:20]!r}.")
    keys = read_keys(store, repository_id) if sealing == "age" else None
    return RepositoryIdentity(repository_id, sealing, _hexadecimal(members, "hash_salt", 64), keys)


def read_keys(store: Store, repository_id: str | None = None) -> KeySet:
    """The newest key set of a repository. Raises ``RepositoryError`` when there is none."""
    return _key_set(*_newest_keys(store, repository_id or read_identity(store).id))


def open_secret(sealed: str, keys: KeySet, unlock: Unlock) -> str:
    """A secret key of the key set, opened with what the user gave.

    Raises ``IdentityNeeded`` or ``WrongIdentity``.
    """
    repository_secret = _open_first(keys, unlock)
    if sealed == keys.repository_secret:
        return repository_secret
    metadata_secret = _open_chained(keys.metadata_secret, repository_secret)
    if sealed == keys.metadata_secret:
        return metadata_secret
    return _open_chained(sealed, repository_secret, metadata_secret)


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
        keys = _key_set(members, key)
        if keys.metadata_public != age.public_of(metadata_secret):
            raise KeysChanged(
                f"The repository at {store.url} has new keys since a moment ago.",
                remedy="Run the command again.",
            )
        host = _host_entry(metadata_secret, name, public)
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
        repository_secrets.append(_open_first(keys, unlock))
        metadata_secrets.append(_open_chained(keys.metadata_secret, repository_secrets[0]))
        _check_pair(repository_secrets[0], keys.repository_public)
    elif host_key is not None:
        metadata_secrets.extend(_host_secret(keys, host_key))
    if metadata_secrets:
        _check_pair(metadata_secrets[0], keys.metadata_public)
        _check_proof(keys, metadata_secrets[0])
    for pair in keys.previous:
        if repository_secrets:
            repository_secrets.append(
                _open_chained(pair["repository_secret"], repository_secrets[0])
            )
        if metadata_secrets:
            metadata_secrets.append(_open_chained(pair["metadata_secret"], metadata_secrets[0]))
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


def _newest_keys(store: Store, repository_id: str) -> tuple[dict[str, Any], str]:
    """The newest key record of this repository, and its key."""
    found = [info.key for info in store.list(layout.KEYS)]
    for key in sorted(found, reverse=True):
        if len(key) == len(layout.KEYS) + layout.NUMBER_DIGITS:
            members = parse_record(store.get(key), key, kind="keys")
            if members.get("repository") == repository_id:
                return members, key
    raise RepositoryError(
        f"The repository at {store.url} is sealed, and its keys are missing.",
        why=f"There are none of this repository under {layout.KEYS}.",
        remedy="Bring back that folder from a copy of the repository.",
    )


def _key_set(members: Mapping[str, Any], key: str) -> KeySet:
    texts = {name: member(members, name, str, name=key) for name in _KEYS_TEXTS}
    recipients = tuple(member(members, "recipients", list, name=key))
    if not all(isinstance(one, str) for one in recipients):
        raise DamagedObject(f"{key} is damaged: its recipients are no texts.")
    return KeySet(
        **texts,
        recipients=recipients,
        passphrase=member(members, "passphrase", bool, name=key),
        hosts=_rows(members, "hosts", _HOST_TEXTS, key=key),
        previous=_rows(members, "previous", _KEYS_TEXTS, key=key),
        proof=member(members, "proof", str, name=key),
    )


def _rows(
    members: Mapping[str, Any], name: str, texts: Sequence[str], *, key: str
) -> tuple[dict[str, str], ...]:
    rows = member(members, name, list, name=key)
    if not all(isinstance(row, dict) for row in rows):
        raise DamagedObject(f"{key} is damaged: its {name} are malformed.")
    for row in rows:
        for text in texts:
            member(row, text, str, name=key)
    return tuple(rows)


def _hexadecimal(members: Mapping[str, Any], name: str, digits: int) -> str:
    text = member(members, name, str, name=layout.IDENTITY)
    if len(text) != digits or not _HEX.issuperset(text):
        raise DamagedObject(f"{layout.IDENTITY} is damaged: its {name} is malformed.")
    return text


def _open_first(keys: KeySet, unlock: Unlock) -> str:
    """The repository secret, by what the user gave."""
    sealed = keys.repository_secret.encode()
    if keys.passphrase and unlock.passphrase is not None:
        return _text(age.open_with_passphrase(sealed, unlock.passphrase))
    return _text(age.open_with(sealed, unlock.identities))


def _open_chained(sealed: str, *secrets: str) -> str:
    """A secret that is sealed to another one of the repository's own."""
    try:
        return _text(age.open_with(sealed.encode(), secrets))
    except WrongIdentity as error:
        raise _not_a_pair() from error


def _text(secret: bytes) -> str:
    try:
        return secret.decode("ascii")
    except UnicodeDecodeError as error:
        raise _not_a_pair() from error


def _check_pair(secret: str, public: str) -> None:
    if age.public_of(secret) != public:
        raise _not_a_pair()


def _check_proof(keys: KeySet, metadata_secret: str) -> None:
    """Dumps are sealed to the recipients too, so nobody may slip in one of his own."""
    publics = (keys.repository_public, keys.metadata_public)
    if recipients_proof(metadata_secret, publics, keys.recipients) != keys.proof:
        raise KeysChanged(
            "The list of recipients in the repository was changed by somebody without its keys.",
            remedy=f"Look at the newest record under {layout.KEYS}, and who could write there.",
        )


def _not_a_pair() -> SealError:
    return KeysChanged(
        "The newest keys of the repository do not belong together.",
        why="A secret in the record is not the one of the public key beside it.",
        remedy=f"Look at the newest record under {layout.KEYS}, and who could write there.",
    )


def _host_entry(metadata_secret: str, name: str, public: str) -> dict[str, str]:
    sealed = age.seal_to(metadata_secret.encode(), [public], armored=True).decode()
    return {"name": name, "public": public, "metadata_secret": sealed}


def _host_secret(keys: KeySet, host_key: HostKey) -> list[str]:
    public = age.public_of(host_key.identity)
    for host in keys.hosts:
        if host["public"] == public:
            try:
                sealed = host["metadata_secret"].encode()
                return [_text(age.open_with(sealed, [host_key.identity]))]
            except WrongIdentity:
                return []
    return []


def _too_late(store: Store) -> RepositoryError:
    return RepositoryError(
        f"There is a repository at {store.url} already; another process may have made it just now.",
        remedy="Run pgkeep init again to join it.",
    )
