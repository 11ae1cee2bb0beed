"""WAL objects: one file that PostgreSQL archives, as one envelope (format, section 8).

The plain header carries a salted hash of the content, so that a second push of the same name is
judged with no key at hand: same content is a success, other content is refused.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, WalConflict
from pgkeep.seal import envelope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgkeep.repository.layout import Layout
    from pgkeep.seal.keyring import Keyring
    from pgkeep.storage.interface import Store

FRAME_BYTES = 4 << 20
_HEAD_BYTES = 2048
_HEX = frozenset("0123456789abcdef")


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
        frames = _frames_of(size)
        for number in range(frames):
            piece = view[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
            writer.add(piece, kind=envelope.DATA, final=number == frames - 1)
    return writer.finish()


def read_wal_header(store: Store, key: str, keyring: Keyring) -> WalHeader:
    """The plain header of a stored WAL file. Raises ``ObjectNotFound``, ``DamagedObject``."""
    header, _ = envelope.fetch_header(
        store,
        key,
        object_type=envelope.WAL,
        repository_id=keyring.repository_id,
        first_bytes=_HEAD_BYTES,
    )
    return _shown(header, key)


def read_whole_header(store: Store, key: str, keyring: Keyring) -> WalHeader:
    """As :func:`read_wal_header`, of an object that is also whole, as far as its end tells.

    For whoever takes the stored file for the one at hand: a header says what was to be stored.
    """
    header = read_wal_header(store, key, keyring)
    size = store.head(key).size_bytes
    start = max(0, size - envelope.TRAILER_SIZE)
    index, frames, _ = envelope.read_trailer(store.get_range(key, start, size - start), key)
    if index or frames != _frames_of(header.size):
        raise DamagedObject(
            f"{key} in {store.url} is damaged: its end is missing.",
            why="It begins as the file does that is to be stored now.",
            remedy="Delete that object; the file is whole here, and is stored by the next attempt.",
            object=key,
        )
    return header


def open_wal_object(data: bytes, key: str, keyring: Keyring) -> tuple[WalHeader, Iterator[bytes]]:
    """The header and the plain frames of a whole WAL object. Raises ``DamagedObject``."""
    header = envelope.parse_header(
        data, key, object_type=envelope.WAL, repository_id=keyring.repository_id
    )
    return _shown(header, key), envelope.read_frames(data, keyring, header, key)


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


def _frames_of(size: int) -> int:
    """How many frames a file of so many bytes has; an empty one has one, too."""
    return max(0, size - 1) // FRAME_BYTES + 1


def _ancestors(name: str, content: bytes) -> list[list[Any]]:
    from pgkeep.postgres.history import parse_history

    history = parse_history(content, int(name[:8], 16))
    return [[int(a.timeline), str(a.end)] for a in history.ancestors if a.end is not None]


def _shown(header: envelope.Header, key: str) -> WalHeader:
    """The plain header, every member of its type."""
    plain = header.plain
    try:
        shown = WalHeader(*(plain[field] for field in WalHeader._fields[:-1]))
    except KeyError as error:
        raise envelope.damaged(key, f"its header has no {error}") from error
    if type(shown.size) is not int or shown.size < 0:
        raise envelope.damaged(key, "its header names an impossible size")
    if not all(isinstance(text, str) for text in shown._replace(size="", ancestors="")):  # type: ignore[arg-type]
        raise envelope.damaged(key, "a member of its header is no text")
    if not (_is_hex(shown.salt, 32) and _is_hex(shown.blake3, 64)):
        raise envelope.damaged(key, "its header's hash is malformed")
    if shown.name != key.rpartition("/")[2]:
        raise envelope.damaged(key, f"it is the file {shown.name}, in the wrong place")
    return shown._replace(ancestors=_checked_ancestors(plain.get("ancestors"), key))


def _checked_ancestors(rows: Any, key: str) -> list[list[Any]] | None:
    if rows is None:
        return None
    pairs = isinstance(rows, list) and all(isinstance(row, list) and len(row) == 2 for row in rows)
    if pairs and all(type(row[0]) is int and isinstance(row[1], str) for row in rows):
        return list(rows)
    raise envelope.damaged(key, "its header's ancestors are malformed")


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and _HEX.issuperset(text)
