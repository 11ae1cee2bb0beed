"""The keys of one repository, as far as this process holds them.

Whoever writes needs only the public halves: each object gets random keys, wrapped to them.
Secrets are optional, and may be absent for ever: a database host lives without the repository
secret (it cannot read what it wrote), and can even live without the metadata secret (then it
makes full backups only). So every secret is asked for at the moment of need, and its absence is
an error that says what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from pgkeep.errors import IdentityNeeded
from pgkeep.seal import age

KEY_SIZE = 32
PAGE_HASH_CONTEXT = "pgkeep 2026-11-20 page hash"

HASH_NONE, HASH_DERIVED, HASH_EXPLICIT = 0, 1, 2


class ObjectKeys(NamedTuple):
    """The keys of one object and their sealed forms; empty bytes where there is none."""

    data: bytes = b""
    metadata: bytes = b""
    sealed_data: bytes = b""
    sealed_metadata: bytes = b""

    def __repr__(self) -> str:
        return "ObjectKeys(…)"


class PageHashKey(NamedTuple):
    """``kind`` is one of HASH_…; ``shown`` is what stands in a pack's index for it."""

    kind: int
    key: bytes
    shown: bytes

    def __repr__(self) -> str:
        return f"PageHashKey({self.kind}, …)"


class Keyring:
    """Public keys of a repository, and the secrets that this process was given.

    ``repository_secrets`` and ``metadata_secrets`` are AGE-SECRET-KEY texts, the present one
    first, then those of earlier rotations.
    """

    def __init__(
        self,
        repository_id: bytes,
        *,
        repository_public: str | None,
        metadata_public: str | None,
        repository_secrets: Sequence[str] = (),
        metadata_secrets: Sequence[str] = (),
        hash_salt: bytes = b"",
    ) -> None:
        if (repository_public is None) != (metadata_public is None):
            raise ValueError("a sealed repository has two public keys")
        self.repository_id = repository_id
        self.repository_public = repository_public
        self.metadata_public = metadata_public
        self._repository_secrets = tuple(repository_secrets)
        self._metadata_secrets = tuple(metadata_secrets)
        self._hash_salt = hash_salt

    def __repr__(self) -> str:
        return f"Keyring({self.repository_id.hex()}, sealed={self.sealed})"

    @property
    def sealed(self) -> bool:
        """Whether objects of this repository are encrypted at all."""
        return self.repository_public is not None

    @property
    def can_read_metadata(self) -> bool:
        return not self.sealed or bool(self._metadata_secrets)

    @property
    def can_read_data(self) -> bool:
        return not self.sealed or bool(self._repository_secrets)

    @property
    def repository_secrets(self) -> tuple[str, ...]:
        """The X25519 secrets that open dumps, which are plain age files; empty without one."""
        return self._repository_secrets

    def new_keys(self, *, data: bool, metadata: bool) -> ObjectKeys:
        """Fresh random keys for one object, wrapped to the repository's public halves."""
        if self.repository_public is None or self.metadata_public is None:
            return ObjectKeys()
        data_key = os.urandom(KEY_SIZE) if data else b""
        metadata_key = os.urandom(KEY_SIZE) if metadata else b""
        return ObjectKeys(
            data_key,
            metadata_key,
            age.seal_to(data_key, [self.repository_public]) if data else b"",
            age.seal_to(metadata_key, [self.metadata_public]) if metadata else b"",
        )

    def open_data_key(self, sealed: bytes) -> bytes:
        """Unwrap an object's data key. Raises ``IdentityNeeded`` or ``WrongIdentity``."""
        if not self._repository_secrets:
            raise IdentityNeeded(
                "This needs the repository's secret key, which is not on this host.",
                why="Pages and WAL are sealed so that the host that wrote them cannot read them.",
                remedy="Set PGKEEP_IDENTITY to the age identity file (or PGKEEP_PASSPHRASE_FILE).",
            )
        return age.open_with(sealed, self._repository_secrets)

    def open_metadata_key(self, sealed: bytes) -> bytes:
        """Unwrap an object's metadata key. Raises ``IdentityNeeded`` or ``WrongIdentity``."""
        if not self._metadata_secrets:
            raise IdentityNeeded(
                "This needs the repository's metadata key, which is not on this host.",
                why="Manifests are sealed; this host was never given the key that lists them.",
                remedy="Set PGKEEP_IDENTITY, or run pgkeep init here once with it, "
                "so that this host gets a key of its own.",
            )
        return age.open_with(sealed, self._metadata_secrets)

    def page_hash_key(self) -> PageHashKey:
        """The key under which pages are hashed from now on (format, section 5).

        A host without the metadata secret gets a random one, new at each call.
        """
        if not self.sealed:
            return _derived(self._hash_salt)
        if self._metadata_secrets:
            return _derived(self._metadata_secrets[0].encode())
        key = os.urandom(KEY_SIZE)
        return PageHashKey(HASH_EXPLICIT, key, key)

    def page_hash_key_for(self, kind: int, shown: bytes) -> PageHashKey | None:
        """The key of hashes in a pack whose index shows this; None if it is not known here.

        Packs from before a rotation have hashes under an earlier key.
        """
        if kind == HASH_EXPLICIT:
            return PageHashKey(kind, shown, shown)
        if kind == HASH_DERIVED:
            secrets = [text.encode() for text in self._metadata_secrets]
            for material in secrets if self.sealed else [self._hash_salt]:
                found = _derived(material)
                if found.shown == shown:
                    return found
        return None


def _derived(material: bytes) -> PageHashKey:
    from blake3 import blake3

    key = blake3(material, derive_key_context=PAGE_HASH_CONTEXT).digest()
    return PageHashKey(HASH_DERIVED, key, blake3(key).digest())
