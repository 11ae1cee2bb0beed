"""WAL objects: one file that PostgreSQL archives, as one envelope (format, section 8).

The plain header carries a salted hash of the content, so that a second push of the same name is
judged with no key at hand: same content is a success, other content is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from pgkeep.errors import WalConflict
from pgkeep.repository.layout import Layout
from pgkeep.seal import envelope
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Store

FRAME_BYTES = 4 << 20
_HEAD_BYTES = 2048


class WalHeader(NamedTuple):
    """What anybody may read of a WAL object. Moments are UTC text.

    ``ancestors`` (history files only): [timeline, switch point] of each line of the file.
    """

    name: str
    kind: str
    size: int
    salt: str
    blake3: str
    modified: str
    pushed: str
    host: str
    ancestors: list[list[Any]] | None = None


def build_wal_object(
    keyring: Keyring,
    content: Any,
    *,
    name: str,
    kind: str,
    modified: str,
    pushed: str,
    host: str,
    level: int = 1,
) -> memoryview:
    """The stored bytes of a WAL file whose plain bytes are ``content``."""
    salt = os.urandom(16)
    size = memoryview(content).nbytes
    header = WalHeader(
        name,
        kind,
        size,
        salt.hex(),
        salted_hash(salt, content),
        modified,
        pushed,
        host,
        _ancestors(name, bytes(content)) if kind == "history" else None,
    )
    writer = envelope.EnvelopeWriter(
        keyring,
        envelope.WAL,
        header=header._asdict(),
        data=True,
        level=level,
        capacity=size // 2 + (1 << 16),
    )
    with memoryview(content) as view:
        last = max(0, size - 1) // FRAME_BYTES
        for number in range(last + 1):
            piece = view[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
            writer.add(piece, kind=envelope.DATA, final=number == last)
    return writer.finish()


def read_wal_header(store: Store, key: str, keyring: Keyring) -> WalHeader:
    """The plain header of a stored WAL file. Raises ``ObjectNotFound``, ``DamagedObject``."""
    data = store.get_range(key, 0, _HEAD_BYTES)
    if len(data) >= envelope.HEADER_SIZE:
        needed = envelope.header_length(data)
        if needed > len(data):
            data = store.get_range(key, 0, min(needed, 1 << 20))
    return _header(data, key, keyring)[0]


def open_wal_object(data: bytes, key: str, keyring: Keyring) -> tuple[WalHeader, Iterator[bytes]]:
    """The header and the plain frames of a whole WAL object. Raises ``DamagedObject``."""
    shown, header = _header(data, key, keyring)
    return shown, envelope.read_frames(data, keyring, header, key)


def check_same(header: WalHeader, content: Any, *, cluster: str, host: str) -> None:
    """Raise ``WalConflict`` unless the stored file has exactly this content."""
    size = memoryview(content).nbytes
    if size == header.size and salted_hash(bytes.fromhex(header.salt), content) == header.blake3:
        return
    raise WalConflict(
        f"{header.name} is already in the repository with other content, and was not overwritten.",
        why=f'Two servers seem to be archiving under the name "{cluster}": this one is {host}, '
        f"pushed first by {header.host} at {header.pushed}.",
        remedy="If a standby was promoted, stop the old primary, or give this server its own name.",
        segment=header.name,
    )


def salted_hash(salt: bytes, content: Any) -> str:
    """BLAKE3 of salt and content, 64 hex digits."""
    from blake3 import blake3

    hasher = blake3(salt)
    hasher.update(content)
    return str(hasher.hexdigest())


def wal_names(store: Store, layout: Layout) -> Iterator[str]:
    """The names of all stored segments, ``.partial`` and ``.backup`` files, ascending."""
    for info in store.list(layout.wal):
        yield info.key.rpartition("/")[2]


def _ancestors(name: str, content: bytes) -> list[list[Any]]:
    from pgkeep.postgres.history import parse_history

    history = parse_history(content, int(name[:8], 16))
    return [[int(a.timeline), str(a.end)] for a in history.ancestors if a.end is not None]


def _header(data: bytes, key: str, keyring: Keyring) -> tuple[WalHeader, envelope.Header]:
    header = envelope.parse_header(
        data, key, object_type=envelope.WAL, repository_id=keyring.repository_id
    )
    try:
        known = {field: header.plain[field] for field in WalHeader._fields[:-1]}
        shown = WalHeader(**known, ancestors=header.plain.get("ancestors"))
    except KeyError as error:
        raise envelope.damaged(key, f"its header has no {error}") from error
    if shown.name != key.rpartition("/")[2]:
        raise envelope.damaged(key, f"it is the file {shown.name}, in the wrong place")
    return shown, header
