"""An envelope gives back what was put in, and notices every change to its bytes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, FormatTooNew, IdentityNeeded, PgkeepError
from pgkeep.seal import age, envelope
from pgkeep.seal.envelope import DATA, METADATA, EnvelopeWriter
from pgkeep.seal.keyring import Keyring

REPOSITORY = bytes(range(16))
_SECRET, _PUBLIC = age.generate_identity()
_META_SECRET, _META_PUBLIC = age.generate_identity()


def keyring(*, sealed: bool, data: bool = True, metadata: bool = True) -> Keyring:
    if not sealed:
        return Keyring(REPOSITORY, repository_public=None, metadata_public=None)
    return Keyring(
        REPOSITORY,
        repository_public=_PUBLIC,
        metadata_public=_META_PUBLIC,
        repository_secrets=[_SECRET] if data else [],
        metadata_secrets=[_META_SECRET] if metadata else [],
    )


def write(frames: list[bytes], *, sealed: bool, kind: int = DATA) -> bytes:
    writer = EnvelopeWriter(
        keyring(sealed=sealed), envelope.WAL, header={"name": "x"}, data=True, metadata=True
    )
    for number, frame in enumerate(frames):
        writer.add(frame, kind=kind, final=number == len(frames) - 1)
    return bytes(writer.finish())


def read(data: bytes, ring: Keyring) -> list[bytes]:
    header = envelope.parse_header(
        data, "key", object_type=envelope.WAL, repository_id=ring.repository_id
    )
    return list(envelope.read_frames(data, ring, header, "key"))


def rehashed(data: bytes) -> bytes:
    """What an attacker would store: the plain hash fits the changed bytes."""
    from blake3 import blake3

    return data[:-32] + blake3(data[:-32]).digest()


@pytest.mark.parametrize("sealed", [True, False])
@given(frames=st.lists(st.binary(max_size=3000), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_what_was_put_in_comes_out(frames: list[bytes], sealed: bool) -> None:
    assert read(write(frames, sealed=sealed), keyring(sealed=sealed)) == frames


@pytest.mark.parametrize("sealed", [True, False])
def test_every_flipped_bit_is_noticed(sealed: bool) -> None:
    """Invariant 6, for each byte of the object."""
    data = write([b"first frame " * 20, b"second"], sealed=sealed)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        with pytest.raises(PgkeepError):
            read(bytes(broken), keyring(sealed=sealed))


def test_a_sealed_frame_authenticates_even_when_the_plain_hash_was_made_to_fit() -> None:
    data = write([b"first frame " * 20, b"second"], sealed=True)
    header = envelope.parse_header(data, "key", object_type=envelope.WAL, repository_id=REPOSITORY)
    for position in range(header.end + envelope.PREFIX_SIZE, len(data) - 48, 7):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(DamagedObject):
            read(rehashed(bytes(broken)), keyring(sealed=True))


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("keep", [0, 10, 56, 200, -1, -48, -100])
def test_a_truncated_object_is_noticed(sealed: bool, keep: int) -> None:
    data = write([os.urandom(500)], sealed=sealed)
    with pytest.raises(DamagedObject):
        read(data[:keep], keyring(sealed=sealed))


def test_dropping_the_last_frame_is_noticed() -> None:
    """The final-frame flag is authenticated: frames cannot be cut off at the end."""
    data = write([b"one", b"two"], sealed=True)
    header = envelope.parse_header(data, "key", object_type=envelope.WAL, repository_id=REPOSITORY)
    _, stored, _ = envelope.read_prefix(data, header.end, "key")
    first = data[: header.end + envelope.PREFIX_SIZE + stored]
    trailer = bytearray(data[-48:])
    trailer[8:12] = (1).to_bytes(4, "little")
    with pytest.raises(DamagedObject):
        read(rehashed(first + bytes(trailer)), keyring(sealed=True))


def test_swapped_frames_are_noticed() -> None:
    data = write([b"a" * 100, b"b" * 100, b"end"], sealed=True)
    header = envelope.parse_header(data, "key", object_type=envelope.WAL, repository_id=REPOSITORY)
    _, stored, _ = envelope.read_prefix(data, header.end, "key")
    length = envelope.PREFIX_SIZE + stored
    one, two = header.end, header.end + length
    swapped = data[:one] + data[two : two + length] + data[one:two] + data[two + length :]
    assert len(swapped) == len(data)
    with pytest.raises(DamagedObject):
        read(rehashed(swapped), keyring(sealed=True))


def test_an_object_of_another_repository_is_refused() -> None:
    other = Keyring(bytes(16), repository_public=None, metadata_public=None)
    with pytest.raises(DamagedObject, match="belongs to repository"):
        read(write([b"x"], sealed=False), other)


def test_an_object_of_another_type_is_refused() -> None:
    with pytest.raises(DamagedObject, match="type"):
        envelope.parse_header(
            write([b"x"], sealed=False), "key", object_type=envelope.PACK, repository_id=REPOSITORY
        )


def test_a_newer_format_is_refused() -> None:
    """Invariant 8."""
    data = bytearray(write([b"x"], sealed=False))
    data[7] = envelope.FORMAT_VERSION + 1
    with pytest.raises(FormatTooNew):
        read(bytes(data), keyring(sealed=False))


def test_without_the_secret_nothing_opens() -> None:
    """Invariant 24: the host that wrote it cannot read it."""
    with pytest.raises(IdentityNeeded):
        read(write([b"x"], sealed=True), keyring(sealed=True, data=False))


def test_the_metadata_secret_opens_metadata_and_no_data() -> None:
    host = keyring(sealed=True, data=False)
    assert read(write([b"names"], sealed=True, kind=METADATA), host) == [b"names"]
    with pytest.raises(IdentityNeeded):
        read(write([b"pages"], sealed=True, kind=DATA), host)


def test_a_sealed_object_holds_no_plain_text() -> None:
    secret = b"the quick brown fox jumps over the lazy dog"
    assert secret not in write([secret], sealed=True)


def test_keys_are_never_used_twice() -> None:
    """The nonce is a counter: that is sound only with a fresh key for each object."""
    rings = [keyring(sealed=True).new_keys(data=True, metadata=True) for _ in range(50)]
    keys = [ring.data for ring in rings] + [ring.metadata for ring in rings]
    assert len(set(keys)) == 100


def test_the_age_program_opens_a_wrapped_key(tmp_path: object) -> None:
    """What we call an age file is one for the program that others wrote."""
    import shutil
    import subprocess
    from pathlib import Path

    program = shutil.which("age") or shutil.which("rage")
    if program is None:
        pytest.skip("neither age nor rage is installed")
    folder = Path(str(tmp_path))
    (folder / "identity").write_text(_SECRET + "\n")
    keys = keyring(sealed=True).new_keys(data=True, metadata=False)
    (folder / "sealed").write_bytes(keys.sealed_data)
    opened = subprocess.run(
        [program, "-d", "-i", folder / "identity", folder / "sealed"],
        capture_output=True,
        check=True,
    )
    assert opened.stdout == keys.data
