"""Invariant 27: a secret is not shown, whatever is printed, logged or raised."""

from __future__ import annotations

import os

import pytest

from pgkeep.errors import ConfigError
from pgkeep.repository.host import HostKey
from pgkeep.repository.identity import Repository, RepositoryIdentity, Unlock, make_key_set
from pgkeep.seal import age
from pgkeep.seal.keyring import Keyring, ObjectKeys, PageHashKey
from pgkeep.storage.memory import MemoryStore

SECRET, PUBLIC = age.generate_identity()
KEY = os.urandom(32)


def keyring() -> Keyring:
    return Keyring(
        bytes(16),
        repository_public=PUBLIC,
        metadata_public=PUBLIC,
        repository_secrets=[SECRET],
        metadata_secrets=[SECRET],
    )


@pytest.mark.parametrize(
    "holder",
    [
        Unlock([SECRET], SECRET),
        HostKey("ab" * 16, SECRET),
        ObjectKeys(KEY, KEY, b"", b""),
        PageHashKey(2, KEY, KEY),
        keyring(),
        Repository(MemoryStore(), RepositoryIdentity("ab" * 16, "age", "", None), keyring()),
    ],
)
def test_what_holds_a_secret_does_not_show_it(holder: object) -> None:
    for text in (repr(holder), str(holder), f"{holder}", repr([holder])):
        assert SECRET not in text
        assert repr(KEY)[2:-1] not in text


def test_a_key_set_does_not_flood_a_log() -> None:
    keys = make_key_set([PUBLIC], None)
    assert "AGE ENCRYPTED FILE" not in repr(keys)


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        SECRET.lower(),
        f" {SECRET}",
        f"PGKEEP-HOST-KEY-1:{'ab' * 16}:{SECRET}",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0",
        "correct horse battery staple",
    ],
    ids=["age", "lower case", "with a space", "host key", "ssh", "passphrase"],
)
def test_a_secret_given_as_a_recipient_is_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        age.parse_recipient(secret)
    assert secret.strip()[:12] not in str(caught.value)


def test_sealing_to_nobody_is_refused() -> None:
    with pytest.raises(ConfigError):
        age.seal_to(b"x", [])
    with pytest.raises(ConfigError):
        make_key_set([], None)


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(ConfigError):
        make_key_set([], "")


def test_half_a_key_pair_seals_nothing() -> None:
    """Else objects would be made that say that they are sealed, under no key."""
    with pytest.raises(ValueError):
        Keyring(bytes(16), repository_public=PUBLIC, metadata_public=None)
