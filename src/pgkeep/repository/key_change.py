"""Changing who can open a sealed repository: new recipients for the same keys, or new keys.

The same keys sealed to others change nothing for hosts. New keys do: hosts pin the public halves,
and each refuses the repository until a person tells it the new fingerprint, for nothing in a store
can say that new keys are meant. What was sealed before stays readable to whoever could read it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pgkeep.errors import KeysChanged
from pgkeep.repository import layout
from pgkeep.repository.identity import RepositoryIdentity, read_keys
from pgkeep.repository.keys import (
    KeySet,
    Unlock,
    host_entry,
    open_chained,
    open_first,
    recipients_proof,
)
from pgkeep.repository.record import build_record, publish
from pgkeep.seal import age
from pgkeep.storage.interface import Store


class Secrets(NamedTuple):
    """All secrets of a repository, the present ones first."""

    repository: tuple[str, ...]
    metadata: tuple[str, ...]


def open_all(keys: KeySet, unlock: Unlock) -> Secrets:
    """Raises ``IdentityNeeded``, ``WrongIdentity``, ``KeysChanged``."""
    repository = [open_first(keys, unlock)]
    metadata = [open_chained(keys.metadata_secret, repository[0])]
    for pair in keys.previous:
        repository.append(open_chained(pair["repository_secret"], repository[0]))
        metadata.append(open_chained(pair["metadata_secret"], metadata[0]))
    return Secrets(tuple(repository), tuple(metadata))


def sealed_to(
    keys: KeySet, secrets: Secrets, recipients: Sequence[str], passphrase: str | None
) -> KeySet:
    """The same keys, their secret sealed to these recipients, or with a passphrase.

    Raises ``ConfigError`` for a recipient that cannot be sealed to.
    """
    publics = (keys.repository_public, keys.metadata_public)
    if passphrase is not None:
        recipients = ()
    return keys._replace(
        recipients=tuple(recipients),
        passphrase=passphrase is not None,
        repository_secret=_sealed(secrets.repository[0], recipients, passphrase),
        proof=recipients_proof(secrets.metadata[0], publics, recipients),
    )


def rotated(
    keys: KeySet,
    secrets: Secrets,
    recipients: Sequence[str],
    passphrase: str | None,
    *,
    without_hosts: Collection[str] = (),
) -> KeySet:
    """New keys, sealed to these recipients or with a passphrase, and to the hosts but those named.

    The former keys are sealed to the new ones. Raises as :func:`sealed_to`.
    """
    repository_secret, repository_public = age.generate_identity()
    metadata_secret, metadata_public = age.generate_identity()
    if passphrase is not None:
        recipients = ()
    pairs = [
        (keys.repository_public, keys.metadata_public),
        *((one["repository_public"], one["metadata_public"]) for one in keys.previous),
    ]
    previous = [
        {
            "repository_public": publics[0],
            "metadata_public": publics[1],
            "repository_secret": _sealed(repository, [repository_public], None),
            "metadata_secret": _sealed(metadata, [metadata_public], None),
        }
        for publics, repository, metadata in zip(
            pairs, secrets.repository, secrets.metadata, strict=True
        )
    ]
    return KeySet(
        repository_public,
        metadata_public,
        tuple(recipients),
        passphrase is not None,
        _sealed(repository_secret, recipients, passphrase),
        _sealed(metadata_secret, [repository_public], None),
        tuple(
            host_entry(metadata_secret, host["name"], host["public"])
            for host in keys.hosts
            if host["name"] not in without_hosts
        ),
        tuple(previous),
        recipients_proof(metadata_secret, (repository_public, metadata_public), recipients),
    )


def publish_keys(
    store: Store,
    identity: RepositoryIdentity,
    new: KeySet,
    *,
    at: str,
    by: Mapping[str, Any],
) -> None:
    """Make ``new`` the repository's keys, in the place of those that ``identity`` has.

    Returns when they are durable; that they are there already is a success. Raises ``KeysChanged``
    when the repository has other keys by now, and what the store raises.
    """

    def build(_: int) -> bytes:
        present = read_keys(store, identity.id)
        if present not in (identity.keys, new):
            raise KeysChanged(
                f"The keys of {store.url} were changed by somebody else just now.",
                remedy="Look with pgkeep keys list, and run the command again.",
            )
        if present == new:
            raise _Done
        return build_record("keys", new.members(identity.id), at=at, by=dict(by))

    try:
        publish(store, layout.KEYS, build)
    except _Done:
        return


def _sealed(secret: str, recipients: Sequence[str], passphrase: str | None) -> str:
    plain = secret.encode()
    if passphrase is not None:
        return age.seal_with_passphrase(plain, passphrase).decode()
    return age.seal_to(plain, recipients, armored=True).decode()


class _Done(Exception):
    pass
