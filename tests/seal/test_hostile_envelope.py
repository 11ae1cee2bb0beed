"""Invariant 6: whatever somebody stores in an envelope's place, a reader raises ``DamagedObject``.

The attacker of these tests knows the format and the public keys: hashes are made to fit.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, FormatTooNew, PgkeepError
from pgkeep.seal import age, envelope, frame
from pgkeep.seal.envelope import DATA, METADATA, EnvelopeWriter
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.memory import MemoryStore

REPOSITORY = bytes(range(16))
_SECRET, _PUBLIC = age.generate_identity()
SEALED = Keyring(
    REPOSITORY,
    repository_public=_PUBLIC,
    metadata_public=_PUBLIC,
    repository_secrets=[_SECRET],
    metadata_secrets=[_SECRET],
)
PLAIN = Keyring(REPOSITORY, repository_public=None, metadata_public=None)


def forge(
    header: bytes = b"{}",
    frames: bytes = b"",
    *,
    count: int = 1,
    sealed: int = 0,
    data_key: bytes = b"",
    version: int = 1,
) -> bytes:
    """An object with these parts, all hashes right."""
    fixed = struct.pack(
        "<7sBBBHI16s16sHHI",
        b"PGKEEP\0",
        version,
        envelope.WAL,
        sealed,
        0,
        len(header),
        REPOSITORY,
        bytes(16),
        len(data_key),
        0,
        0,
    )
    head = fixed + header + data_key
    head = head[:32] + blake3(head).digest(16) + head[48:]
    whole = head + frames + struct.pack("<QII", 0, count, 0)
    return whole + blake3(whole).digest()


def stored(packed: bytes, plain: int, *, kind: int = DATA) -> bytes:
    return struct.pack("<II", len(packed) | kind << 31, plain) + packed


def read(data: bytes, ring: Keyring = PLAIN) -> list[bytes]:
    header = envelope.parse_header(data, "key", object_type=envelope.WAL, repository_id=REPOSITORY)
    return list(envelope.read_frames(data, ring, header, "key"))


GOOD = stored(zstandard.ZstdCompressor(write_checksum=True).compress(b"content"), 7)


def test_the_forger_of_these_tests_can_forge() -> None:
    """Else the refusals below would show nothing."""
    assert read(forge(frames=GOOD)) == [b"content"]


@pytest.mark.parametrize(
    "header", [b"[]", b"7", b"null", b'"x"', b"", b"{", b"\xff", b"[" * 100_000, b"9" * 10_000]
)
def test_a_header_that_is_no_json_object_is_damage(header: bytes) -> None:
    with pytest.raises(DamagedObject):
        read(forge(header, GOOD))


def test_a_changed_header_is_noticed_without_the_rest_of_the_object() -> None:
    """A second push reads a header only, and judges by it."""
    writer = EnvelopeWriter(PLAIN, envelope.WAL, header={"name": "a", "size": 12}, data=True)
    writer.add(b"x", kind=DATA, final=True)
    data = bytes(writer.finish())
    header = envelope.parse_header(data, "k", object_type=envelope.WAL, repository_id=REPOSITORY)
    for position in range(8, header.end):
        broken = bytearray(data[: header.end])
        broken[position] ^= 1
        with pytest.raises(PgkeepError):
            envelope.parse_header(
                bytes(broken), "k", object_type=envelope.WAL, repository_id=REPOSITORY
            )


def test_sealed_frames_do_not_open_under_another_header() -> None:
    """Real content cannot be given another name: frames are bound to the header's hash."""
    writer = EnvelopeWriter(SEALED, envelope.WAL, header={"name": "a"}, data=True)
    writer.add(b"content", kind=DATA, final=True)
    data = bytes(writer.finish())
    header = envelope.parse_header(data, "k", object_type=envelope.WAL, repository_id=REPOSITORY)
    frames = data[header.end : -48]
    renamed = forge(b'{"name":"b"}', frames, sealed=1, data_key=header.sealed_data)
    with pytest.raises(DamagedObject, match="authenticate"):
        read(renamed, SEALED)


def test_an_object_without_frames_is_damage() -> None:
    """Nothing would say that it was not cut off."""
    with pytest.raises(DamagedObject, match="no frame"):
        read(forge(count=0))


def test_a_plain_object_in_a_sealed_repository_is_refused() -> None:
    with pytest.raises(DamagedObject, match="not encrypted"):
        read(forge(frames=GOOD), SEALED)
    with pytest.raises(DamagedObject, match="encrypted"):
        read(forge(frames=GOOD, sealed=1), PLAIN)
    with pytest.raises(DamagedObject):
        read(forge(frames=GOOD, sealed=2), PLAIN)


@pytest.mark.parametrize("wrapped", [b"", b"garbage", None])
def test_a_sealed_object_without_a_usable_key_is_an_error(wrapped: bytes | None) -> None:
    key = age.seal_to(b"short", [_PUBLIC]) if wrapped is None else wrapped
    with pytest.raises(PgkeepError):
        read(forge(frames=GOOD, sealed=1, data_key=key), SEALED)


@pytest.mark.parametrize("count", [2, 1 << 31])
def test_more_frames_than_there_are_is_damage(count: int) -> None:
    with pytest.raises(DamagedObject):
        read(forge(frames=GOOD, count=count))


def test_bytes_between_the_frames_and_the_trailer_are_damage() -> None:
    with pytest.raises(DamagedObject):
        read(forge(frames=GOOD + b"more"))


def test_bytes_after_the_zstd_frame_are_damage() -> None:
    with pytest.raises(DamagedObject):
        read(forge(frames=stored(GOOD[8:] + b"more", 7)))


def test_a_zstd_frame_without_its_size_is_damage() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(b"content")
    with pytest.raises(DamagedObject):
        read(forge(frames=stored(packed, 7)))


def bomb(size: int) -> bytes:
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(size))
    assert len(packed) < size // 1000
    return packed


def test_a_bomb_is_refused_before_memory_is_allocated() -> None:
    """Also when the sizes come from a manifest or a map, which can be forged as well."""
    packed = bomb(frame.MAX_FRAME + 1)
    with pytest.raises(DamagedObject, match="impossible"):
        read(forge(frames=stored(packed, frame.MAX_FRAME + 1)))
    opener = frame.FrameOpener(PLAIN, envelope.PACK, name="pack", object_id=bytes(16))
    with pytest.raises(DamagedObject, match="impossible"):
        opener.open(packed, number=0, kind=DATA, plain=frame.MAX_FRAME + 1)
    with pytest.raises(DamagedObject, match="length"):
        opener.open(packed, number=0, kind=DATA, plain=100)


def test_what_a_reader_would_refuse_is_not_written() -> None:
    writer = EnvelopeWriter(PLAIN, envelope.WAL, header={}, data=True)
    with pytest.raises(ValueError):
        writer.add(bytes(frame.MAX_FRAME + 1), kind=DATA)
    with pytest.raises(ValueError):
        EnvelopeWriter(PLAIN, envelope.WAL, header={"x": "x" * envelope.MAX_HEADER}, data=True)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), version=st.integers(0, 3))
def test_any_bytes_at_all_raise_an_error_of_ours(data: bytes, version: int) -> None:
    for made in (
        data,
        b"PGKEEP\0\x01\x03" + data,
        forge(data, version=version),
        forge(b"{}", data),
    ):
        with suppress(DamagedObject, FormatTooNew):
            read(made)


def test_a_long_header_costs_a_second_request_and_no_more() -> None:
    writer = EnvelopeWriter(PLAIN, envelope.WAL, header={"x": "y" * 50_000}, data=True)
    writer.add(b"x", kind=DATA, final=True)
    store = MemoryStore()
    store.put("a/b", writer.finish())
    asked: list[int] = []

    class Counting:
        def get_range(self, key: str, start: int, length: int) -> bytes:
            asked.append(length)
            return store.get_range(key, start, length)

    fetched: Any = Counting()
    header, _ = envelope.fetch_header(
        fetched, "a/b", object_type=envelope.WAL, repository_id=REPOSITORY, first_bytes=100
    )
    assert header.plain == {"x": "y" * 50_000}
    assert len(asked) == 2


def test_a_header_that_claims_gigabytes_is_not_fetched() -> None:
    store = MemoryStore()
    data = bytearray(forge(frames=GOOD))
    data[12:16] = b"\xff\xff\xff\xff"
    store.put("a/b", bytes(data))
    with pytest.raises(DamagedObject):
        envelope.fetch_header(
            store, "a/b", object_type=envelope.WAL, repository_id=REPOSITORY, first_bytes=100
        )


def test_a_metadata_frame_may_be_larger_than_a_data_frame() -> None:
    """The map of one file is one frame, and a file may have millions of frames."""
    size = frame.MAX_FRAME + 1
    found = read(forge(frames=stored(bomb(size), size, kind=METADATA)))
    assert [len(piece) for piece in found] == [size]


def test_json_of_a_header_survives_any_text() -> None:
    text = '\u2028 \ud83d\ude00 " \\ \x00'
    writer = EnvelopeWriter(PLAIN, envelope.WAL, header={"x": text}, data=True)
    writer.add(os.urandom(10), kind=DATA, final=True)
    data = bytes(writer.finish())
    header = envelope.parse_header(data, "k", object_type=envelope.WAL, repository_id=REPOSITORY)
    assert header.plain == json.loads(json.dumps({"x": text}))
