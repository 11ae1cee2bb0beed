"""Sealing small secrets with age; the only place that imports pyrage.

age wraps keys and nothing else: pyrage holds the GIL while it encrypts, so bulk data goes
through AES-GCM (``envelope.py``) under a key that is wrapped here in about 64 microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgkeep.errors import ConfigError, IdentityNeeded, WrongIdentity

IDENTITY_PREFIX = "AGE-SECRET-KEY-1"
_SECRET_MARKS = ("AGE-SECRET-KEY-", "PRIVATE KEY-----", "PGKEEP-HOST-KEY-")


def generate_identity() -> tuple[str, str]:
    """A new X25519 identity as ``(AGE-SECRET-KEY-1…, age1…)``."""
    from pyrage import x25519

    identity = x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def public_of(identity: str) -> str:
    """The ``age1…`` recipient of an identity text. Raises ``ConfigError``."""
    return str(_x25519(identity).to_public())


def parse_recipient(text: str) -> Any:
    """A user's recipient: ``age1…``, ``ssh-ed25519 …`` or ``ssh-rsa …``.

    Raises ``ConfigError`` for anything else, in particular for a secret given by mistake.
    """
    from pyrage import RecipientError, ssh, x25519

    text = text.strip()
    if any(mark in text.upper() for mark in _SECRET_MARKS):
        raise ConfigError(
            "A secret key was given where a recipient is wanted.",
            remedy="Give its public half, which starts with age1 (age-keygen -y prints it).",
        )
    try:
        if text.startswith("ssh-"):
            return ssh.Recipient.from_str(text)
        return x25519.Recipient.from_str(text)
    except RecipientError as error:
        # Only what looks like a public key is shown again: the rest may be a secret.
        shown = repr(text[:60]) if text.startswith(("age1", "ssh-")) else "What was given"
        raise ConfigError(
            f"{shown} is not a recipient that pgkeep can seal to.",
            why=f"age says: {error}.",
            remedy="Give an age1… or ssh-ed25519 public key.",
        ) from error


def seal_to(plain: bytes, recipients: Sequence[str], *, armored: bool = False) -> bytes:
    """An age file of ``plain`` that each of ``recipients`` can open.

    Raises ``ConfigError`` when there is none, or one that cannot be sealed to.
    """
    import pyrage

    if not recipients:
        raise ConfigError("There is no recipient to seal to.", remedy="Give an age1… public key.")
    return bytes(
        pyrage.encrypt(plain, [parse_recipient(text) for text in recipients], armored=armored)
    )


def seal_with_passphrase(plain: bytes, passphrase: str) -> bytes:
    """An armored age file (scrypt recipient). Raises ``ConfigError`` for an empty passphrase."""
    import pyrage

    if not passphrase:
        raise ConfigError(
            "The passphrase is empty.", remedy="Put one into the passphrase file: a few words."
        )
    return bytes(pyrage.passphrase.encrypt(plain, passphrase, armored=True))


def open_with_passphrase(sealed: bytes, passphrase: str) -> bytes:
    """Raises ``WrongIdentity`` when the passphrase does not open it."""
    import pyrage

    try:
        return bytes(pyrage.passphrase.decrypt(sealed, passphrase))
    except pyrage.DecryptError as error:
        raise WrongIdentity(
            "The passphrase does not open this repository.",
            remedy="Check PGKEEP_PASSPHRASE_FILE.",
        ) from error


def open_with(sealed: bytes, identities: Sequence[str]) -> bytes:
    """Open an age file with any of the identity texts (``AGE-SECRET-KEY-1…`` or an SSH key).

    Raises ``IdentityNeeded`` with none, ``WrongIdentity`` when none of them fits.
    """
    import pyrage

    if not identities:
        raise IdentityNeeded(
            "The secret key that opens this repository is not here.",
            remedy="Set PGKEEP_IDENTITY to the age identity file (or PGKEEP_PASSPHRASE_FILE).",
        )
    try:
        return bytes(pyrage.decrypt(sealed, [_identity(text) for text in identities]))
    except pyrage.DecryptError as error:
        raise WrongIdentity(
            "The identity given does not open this repository.",
            why=f"age says: {error}.",
            remedy="Use an identity whose public half is among the repository's recipients.",
        ) from error


def read_identities(text: str) -> list[str]:
    """The identities in an age identity file's text, or in the text of one SSH private key.

    Raises ``ConfigError`` when there is none.
    """
    if "PRIVATE KEY-----" in text:
        return [text]
    found = [line.strip() for line in text.splitlines()]
    found = [line for line in found if line.upper().startswith(IDENTITY_PREFIX)]
    if not found:
        raise ConfigError(
            "The identity holds no age secret key.",
            remedy=f"It must have a line that starts with {IDENTITY_PREFIX}.",
        )
    return found


def _identity(text: str) -> Any:
    if "PRIVATE KEY-----" in text:
        from pyrage import IdentityError, ssh

        try:
            return ssh.Identity.from_buffer(text.encode())
        except IdentityError as error:
            raise ConfigError("The SSH private key cannot be used.", why=str(error)) from error
    return _x25519(text)


def _x25519(text: str) -> Any:
    from pyrage import IdentityError, x25519

    try:
        return x25519.Identity.from_str(text.strip())
    except IdentityError as error:
        raise ConfigError(
            "The secret key is malformed.",
            why=f"age says: {error}.",
            remedy=f"It is one line that starts with {IDENTITY_PREFIX}.",
        ) from error
