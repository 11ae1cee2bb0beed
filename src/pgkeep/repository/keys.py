"""The key set of a sealed repository: what its ``keys`` record says, and how secrets are opened.

One chain opens everything: the users' identities (or the passphrase) open the repository secret,
that opens the metadata secret, and each of the two opens its predecessors. So a passphrase costs
one scrypt, and a rotation seals nothing to anybody anew but the new repository secret.

A record comes from a store that others may write to. What is found is checked against the public
halves before it is used; that those are the right ones is what the pin is for.

The types are named tuples and not dataclasses, because ``wal-push`` starts through this module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, KeysChanged, SealError, WrongIdentity
from pgkeep.repository import layout
from pgkeep.repository.record import member
from pgkeep.seal import age

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgkeep.repository.host import HostKey

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


def recipients_proof(
    metadata_secret: str, publics: Sequence[str], recipients: Sequence[str]
) -> str:
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
        tuple(host_entry(metadata_secret, name, public) for name, public in hosts),
        (),
        recipients_proof(metadata_secret, (repository_public, metadata_public), recipients),
    )


def open_secret(sealed: str, keys: KeySet, unlock: Unlock) -> str:
    """A secret key of the key set, opened with what the user gave.

    Raises ``IdentityNeeded`` or ``WrongIdentity``.
    """
    repository_secret = open_first(keys, unlock)
    if sealed == keys.repository_secret:
        return repository_secret
    metadata_secret = open_chained(keys.metadata_secret, repository_secret)
    if sealed == keys.metadata_secret:
        return metadata_secret
    return open_chained(sealed, repository_secret, metadata_secret)


def parse_key_set(members: Mapping[str, Any], key: str) -> KeySet:
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


def open_first(keys: KeySet, unlock: Unlock) -> str:
    """The repository secret, by what the user gave."""
    sealed = keys.repository_secret.encode()
    if keys.passphrase and unlock.passphrase is not None:
        return _text(age.open_with_passphrase(sealed, unlock.passphrase))
    return _text(age.open_with(sealed, unlock.identities))


def open_chained(sealed: str, *secrets: str) -> str:
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


def check_pair(secret: str, public: str) -> None:
    if age.public_of(secret) != public:
        raise _not_a_pair()


def check_proof(keys: KeySet, metadata_secret: str) -> None:
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


def host_entry(metadata_secret: str, name: str, public: str) -> dict[str, str]:
    sealed = age.seal_to(metadata_secret.encode(), [public], armored=True).decode()
    return {"name": name, "public": public, "metadata_secret": sealed}


def host_secret(keys: KeySet, host_key: HostKey) -> list[str]:
    public = age.public_of(host_key.identity)
    for host in keys.hosts:
        if host["public"] == public:
            try:
                sealed = host["metadata_secret"].encode()
                return [_text(age.open_with(sealed, [host_key.identity]))]
            except WrongIdentity:
                return []
    return []
