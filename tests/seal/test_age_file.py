"""Streams sealed here are age files: the age program opens them, and we open what it seals."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pyrage
import pytest

from pgkeep.errors import DamagedObject, IdentityNeeded, WrongIdentity
from pgkeep.seal import age
from pgkeep.seal.age_file import CHUNK_BYTES, TAG_BYTES, AgeSealer, open_stream, secret_bytes

SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_001)


def sealed(plain: bytes, *recipients: str) -> bytes:
    sealer = AgeSealer(recipients)
    found = bytearray(sealer.start)
    chunks = [plain[at : at + CHUNK_BYTES] for at in range(0, len(plain), CHUNK_BYTES)] or [b""]
    for number, chunk in enumerate(chunks):
        target = bytearray(len(chunk) + TAG_BYTES)
        sealer.seal_into(memoryview(target), chunk, last=number == len(chunks) - 1)
        found += target
    return bytes(found)


def opened(data: bytes, *secrets: str, piece: int = 1 << 20) -> bytes:
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    return b"".join(open_stream(pieces, secrets, name="it"))


@pytest.mark.parametrize("size", SIZES)
def test_others_open_what_we_seal(tmp_path: Path, size: int) -> None:
    plain = os.urandom(size)
    secret, public = age.generate_identity()
    data = sealed(plain, public)
    assert bytes(pyrage.decrypt(data, [pyrage.x25519.Identity.from_str(secret)])) == plain
    program = shutil.which("age")
    if program is not None:
        (tmp_path / "key").write_text(secret + "\n")
        done = subprocess.run(
            [program, "-d", "-i", tmp_path / "key"], input=data, capture_output=True, check=True
        )
        assert done.stdout == plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1000, CHUNK_BYTES + TAG_BYTES, 1 << 20])
def test_we_open_what_age_seals(size: int, piece: int) -> None:
    plain = os.urandom(size)
    secret, public = age.generate_identity()
    other, _ = age.generate_identity()
    data = age.seal_to(plain, [public])
    assert opened(data, other, secret, piece=piece) == plain
    assert opened(sealed(plain, public), secret, piece=piece) == plain


def test_each_recipient_opens_it_and_nobody_else_does(tmp_path: Path) -> None:
    """The throw-away key by which we got the file key is not among them."""
    keys = [age.generate_identity() for _ in range(3)]
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True
    )
    ssh = (tmp_path / "id.pub").read_text()
    data = sealed(b"content", *(public for _, public in keys), ssh)
    for secret, _ in keys:
        assert opened(data, secret) == b"content"
    assert age.open_with(data, [(tmp_path / "id").read_text()]) == b"content"
    assert data.split(b"\n---")[0].count(b"-> X25519 ") == 3
    with pytest.raises(WrongIdentity):
        opened(data, age.generate_identity()[0])
    with pytest.raises(IdentityNeeded):
        opened(data)


def test_no_change_and_no_missing_end_goes_unnoticed() -> None:
    secret, public = age.generate_identity()
    data = sealed(os.urandom(3 * CHUNK_BYTES + 5), public)
    start = data.index(b"\n---")
    whole = [CHUNK_BYTES + TAG_BYTES]
    cuts = [len(data) - 1, len(data) - 5 - TAG_BYTES, len(data) - 5 - TAG_BYTES - whole[0], 30]
    for cut in cuts:
        with pytest.raises(DamagedObject):
            opened(data[:cut], secret)
    for at in (start + 10, len(data) - 3, len(data) - whole[0], len(data) // 2):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(DamagedObject):
            opened(bytes(changed), secret)
    with pytest.raises(DamagedObject):
        opened(data + b"more", secret)


def test_secret_keys_are_read_as_age_reads_them() -> None:
    secret, _ = age.generate_identity()
    assert len(secret_bytes(secret)) == 32
    with pytest.raises(Exception, match="malformed"):
        secret_bytes(secret[:-1] + ("Q" if secret[-1] != "Q" else "P"))
