"""age files as streams: what ``seal/age.py`` cannot do, because pyrage holds the GIL and wants all.

The format is age's own (https://age-encryption.org/v1): a text header with the file key wrapped for
each recipient, then chunks of 64 KiB under ChaCha20-Poly1305, each with its number and whether it
is the last. The chunks are ours to seal, with ``cryptography``, which leaves the interpreter free
and writes straight into the caller's buffer. The header stays pyrage's, so that every kind of
recipient is wrapped as age does it: it seals nothing, to the recipients and to a throw-away key,
with which we take the file key out again. The stanza of that key goes, and the header gets a new
MAC. (Its own stream interface was tried: with the GIL held, two streams take turns.)

A whole file is proved only by its last chunk, so a reader that stops early has proved nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pgkeep.errors import ConfigError, DamagedObject, IdentityNeeded, WrongIdentity

CHUNK_BYTES = 64 << 10
TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
NONCE_BYTES = 16
MAX_HEADER_BYTES = 1 << 20

_MAGIC = b"age-encryption.org/v1\n"
_LABEL = b"age-encryption.org/v1/X25519"
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class AgeSealer:
    """Seals one stream. ``start`` are the first bytes of the file; then each chunk in its order.

    Raises ``ConfigError`` for a recipient that cannot be sealed to, or none.
    """

    def __init__(self, recipients: Sequence[str]) -> None:
        header, file_key = _new_header(recipients)
        nonce = os.urandom(NONCE_BYTES)
        self.start = header + nonce
        self._cipher = _cipher(_hkdf(file_key, nonce, b"payload"))
        self._number = 0

    def seal_into(self, target: memoryview, plain: Any, *, last: bool) -> int:
        """Write the next chunk, of exactly ``CHUNK_BYTES`` unless it is the last; returns its
        length."""
        size = len(plain) + TAG_BYTES
        self._cipher.encrypt_into(_nonce(self._number, last=last), plain, None, target[:size])
        self._number += 1
        return size


def open_stream(
    pieces: Iterable[bytes], secrets: Sequence[str], *, name: str
) -> Iterator[bytearray]:
    """The plain bytes of the age file whose stored bytes come in ``pieces`` of any size.

    ``secrets`` are X25519 secrets; ``name`` is the file, for errors. What is yielded is proved
    chunk by chunk, and the whole when the iterator ends. Raises ``DamagedObject``,
    ``IdentityNeeded``, ``WrongIdentity``.
    """
    source = iter(pieces)
    waiting = bytearray()
    while (end := _header_end(waiting)) < 0 or len(waiting) < end + NONCE_BYTES:
        piece = next(source, None)
        if piece is None or len(waiting) > MAX_HEADER_BYTES:
            raise _damaged(name, "it does not begin as an age file does")
        waiting += piece
    header, nonce = bytes(waiting[:end]), bytes(waiting[end : end + NONCE_BYTES])
    del waiting[: end + NONCE_BYTES]
    cipher = _cipher(_hkdf(_file_key(header, secrets, name), nonce, b"payload"))
    number = 0
    for piece in source:
        waiting += piece
        # One is kept back: whether it is the last is known when nothing follows.
        whole = (len(waiting) - 1) // SEALED_CHUNK_BYTES
        if whole > 0:
            yield _open_chunks(cipher, waiting, number, whole, name)
            number += whole
            del waiting[: whole * SEALED_CHUNK_BYTES]
    whole = max(0, (len(waiting) - 1) // SEALED_CHUNK_BYTES)
    if whole:
        yield _open_chunks(cipher, waiting, number, whole, name)
        number += whole
        del waiting[: whole * SEALED_CHUNK_BYTES]
    last = _open(cipher, number, waiting, name, last=True)
    if not last and number:
        raise _damaged(name, "its last chunk is empty")
    if last:
        yield bytearray(last)


def secret_bytes(text: str) -> bytes:
    """The 32 bytes of an ``AGE-SECRET-KEY-1…`` text. Raises ``ConfigError``."""
    human, _, coded = text.strip().lower().rpartition("1")
    values = [_LETTERS.find(letter) for letter in coded]
    if human != "age-secret-key-" or -1 in values or len(values) != 58:
        raise _malformed()
    check = 1
    for value in [*(ord(c) >> 5 for c in human), 0, *(ord(c) & 31 for c in human), *values]:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, part in enumerate(_GENERATOR):
            check ^= part if top >> bit & 1 else 0
    if check != 1:
        raise _malformed()
    number = 0
    for value in values[:-6]:
        number = number << 5 | value
    return (number >> 4).to_bytes(32, "big")


# -- the header ----------------------------------------------------------------------------------


def _new_header(recipients: Sequence[str]) -> tuple[bytes, bytes]:
    """A header that each of the recipients can open, and the file key."""
    from pgkeep.seal.age import generate_identity, seal_to

    if not recipients:
        raise ConfigError("There is no recipient to seal to.", remedy="Give an age1… public key.")
    secret, public = generate_identity()
    made = seal_to(b"", [*recipients, public])
    header = made[: _header_end(made)]
    stanzas, _, _ = _parse(header, "the new header")
    for stanza in stanzas:
        file_key = _unwrap(stanza, [secret])
        if file_key is not None:
            signed = _MAGIC + b"".join(one for one in stanzas if one is not stanza) + b"---"
            return signed + b" " + _unpadded_text(_mac(file_key, signed)) + b"\n", file_key
    raise AssertionError("age did not seal to the key that was given")


def _file_key(header: bytes, secrets: Sequence[str], name: str) -> bytes:
    if not secrets:
        raise IdentityNeeded(
            f"{name} is sealed, and the secret key that opens it is not here.",
            remedy="Set PGKEEP_IDENTITY to the age identity file (or PGKEEP_PASSPHRASE_FILE).",
        )
    stanzas, signed, mac = _parse(header, name)
    for stanza in stanzas:
        file_key = _unwrap(stanza, secrets)
        if file_key is not None:
            if not hmac.compare_digest(_mac(file_key, signed), mac):
                raise _damaged(name, "its header was changed")
            return file_key
    raise WrongIdentity(
        f"{name} is not sealed to a key of this repository.",
        remedy="Somebody put it there who has other keys: see who may write to the store.",
    )


def _header_end(data: bytes | bytearray) -> int:
    """Where the nonce begins; -1 while the header is not all there."""
    at = data.find(b"\n--- ")
    stop = data.find(b"\n", at + 1) if at >= 0 else -1
    return stop + 1 if stop >= 0 else -1


def _parse(header: bytes, name: str) -> tuple[list[bytes], bytes, bytes]:
    """The stanzas as they stand, what the MAC is of, and the MAC."""
    if not header.startswith(_MAGIC):
        raise _damaged(name, "it does not begin as an age file does")
    at = header.rfind(b"\n--- ")
    inside = header[len(_MAGIC) : at + 1]
    stanzas = [b"-> " + part for part in (b"\n" + inside).split(b"\n-> ")[1:]]
    stanzas = [part if part.endswith(b"\n") else part + b"\n" for part in stanzas]
    try:
        return stanzas, header[: at + 4], _from_unpadded(header[at + 5 : -1])
    except ValueError as error:
        raise _damaged(name, "its header is malformed") from error


def _unwrap(stanza: bytes, secrets: Sequence[str]) -> bytes | None:
    """The file key, if the stanza is for one of these X25519 secrets."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    first, _, body = stanza.partition(b"\n")
    words = first.split()
    if len(words) != 3 or words[1] != b"X25519":
        return None
    for text in secrets:
        private = X25519PrivateKey.from_private_bytes(secret_bytes(text))
        try:
            share, wrapped = _from_unpadded(words[2]), _from_unpadded(body.replace(b"\n", b""))
            shared = private.exchange(X25519PublicKey.from_public_bytes(share))
            salt = share + private.public_key().public_bytes_raw()
            return bytes(_cipher(_hkdf(shared, salt, _LABEL)).decrypt(bytes(12), wrapped, None))
        except (InvalidTag, ValueError):
            continue
    return None


# -- the payload ---------------------------------------------------------------------------------


def _open_chunks(cipher: Any, data: bytearray, number: int, count: int, name: str) -> bytearray:
    """So many whole chunks that are not the last."""
    from cryptography.exceptions import InvalidTag

    plain = bytearray(count * CHUNK_BYTES)
    with memoryview(plain) as target, memoryview(data) as source:
        for index in range(count):
            at = index * SEALED_CHUNK_BYTES
            to = index * CHUNK_BYTES
            try:
                cipher.decrypt_into(
                    _nonce(number + index, last=False),
                    source[at : at + SEALED_CHUNK_BYTES],
                    None,
                    target[to : to + CHUNK_BYTES],
                )
            except InvalidTag as error:
                raise _damaged(name, "a part of it does not open") from error
    return plain


def _open(cipher: Any, number: int, data: bytearray, name: str, *, last: bool) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(cipher.decrypt(_nonce(number, last=last), bytes(data), None))
    except (InvalidTag, ValueError) as error:
        raise _damaged(name, "its end is missing, or does not open") from error


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _cipher(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _hkdf(material: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    inner = hmac.new(salt or bytes(32), material, hashlib.sha256).digest()
    return hmac.new(inner, info + b"\x01", hashlib.sha256).digest()


def _mac(file_key: bytes, signed: bytes) -> bytes:
    return hmac.new(_hkdf(file_key, b"", b"header"), signed, hashlib.sha256).digest()


def _unpadded_text(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _from_unpadded(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _damaged(name: str, why: str) -> DamagedObject:
    return DamagedObject(f"{name} is damaged: {why}.", object=name)


def _malformed() -> ConfigError:
    return ConfigError(
        "The secret key is malformed.", remedy="It is one line that starts with AGE-SECRET-KEY-1."
    )
