"""Sealed records: one JSON object in an envelope of one frame (format, section 3.2).

Anybody who has the public keys writes one; reading takes the metadata key. The plain header says
under which key it is stored, so that one found in another place is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pgkeep.repository.record import member
from pgkeep.seal import envelope
from pgkeep.seal.envelope import METADATA, EnvelopeWriter
from pgkeep.seal.keyring import Keyring


def build_sealed_record(
    keyring: Keyring,
    key: str,
    members: dict[str, Any],
    *,
    at: str,
    by: dict[str, Any],
    header: Mapping[str, Any] | None = None,
) -> bytes:
    """The stored bytes of the record that is to lie under ``key``; ``at`` is UTC text.

    ``header`` is what anybody may read of it, beside its key.
    """
    plain = {"key": key, **(header or {})}
    writer = EnvelopeWriter(keyring, envelope.SEALED_RECORD, header=plain, metadata=True)
    whole = {"at": at, "by": by, **members}
    writer.add(json.dumps(whole, ensure_ascii=False).encode(), kind=METADATA, final=True)
    return bytes(writer.finish())


def parse_sealed_record(data: bytes, key: str, keyring: Keyring) -> dict[str, Any]:
    """The members of the sealed record stored as ``key``.

    Raises ``DamagedObject``, ``FormatTooNew``, ``IdentityNeeded`` (no metadata key).
    """
    header = envelope.parse_header(
        data, key, object_type=envelope.SEALED_RECORD, repository_id=keyring.repository_id
    )
    if header.plain.get("key") != key:
        raise envelope.damaged(key, f"it is {header.plain.get('key')!r}, in the wrong place")
    frames = list(envelope.read_frames(data, keyring, header, key))
    members = envelope.json_object(frames[0], key, "it")
    member(members, "at", str, name=key)
    member(members, "by", dict, name=key)
    return members
