"""Whether the bytes of one object are what was stored there, with and without keys.

Without: every object ends with a hash of its bytes, and says in plain which object it is, so that
damage, loss of the end and exchange are told by anybody. With keys its frames are opened, and a
pack's pages are compared with the page hashes in its index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgkeep.postgres.page import HASH_SIZE, scan_pages
from pgkeep.repository.holds import HOLD, RELEASE
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import parse_manifest
from pgkeep.repository.pack import parse_index
from pgkeep.repository.record import parse_record
from pgkeep.repository.trash import DELETING, TRASH, UNDELETE
from pgkeep.repository.wal import open_wal_object, salted_hash
from pgkeep.seal import envelope
from pgkeep.seal.keyring import Keyring
from pgkeep.verify.page_places import PagePlaces

_NO_KEY = bytes(32)
_TYPES = {
    "packs": envelope.PACK,
    "manifests": envelope.MANIFEST,
    "manifests-copy": envelope.MANIFEST,
    "wal": envelope.WAL,
    "history": envelope.WAL,
    "tails": envelope.TAIL,
    "partials": envelope.PARTIAL_MANIFEST,
    "checks": envelope.SEALED_RECORD,
    "drills": envelope.SEALED_RECORD,
}
_RECORDS = {
    "voids": ("void",),
    "pins": ("pin",),
    "tail-boundary": ("tail-boundary",),
    "marks": ("mark",),
    "admin/trash": (TRASH, UNDELETE, DELETING),
    "admin/hold": (HOLD, RELEASE),
    "admin/horizon": ("horizon",),
    "admin/condemned": ("condemned", "spared"),
}


def is_checked(key: str, layout: Layout) -> bool:
    """Whether an object is of a kind whose bytes can be checked: all but the lease and dumps."""
    kind = _kind_of(key, layout)
    return kind in _TYPES or kind in _RECORDS


def check_stored(data: bytes, key: str, layout: Layout, keyring: Keyring) -> bytes:
    """Compare an object's bytes with the hash that it carries, and its name with its place;
    returns the hash. Needs no key. Raises ``DamagedObject``, ``FormatTooNew``."""
    kind = _kind_of(key, layout)
    if kind in _RECORDS:
        _check_record_place(parse_record(data, key, kind=_RECORDS[kind]), key, kind)
        return b""
    _, _, digest = envelope.check_trailer(data, key)
    header = envelope.parse_header(
        data, key, object_type=_TYPES[kind], repository_id=keyring.repository_id
    )
    _check_place(header.plain, key, kind)
    return digest


def check_opened(
    data: bytes,
    key: str,
    layout: Layout,
    keyring: Keyring,
    *,
    places: PagePlaces | None = None,
) -> list[str]:
    """Open an object whose stored bytes are sound; with ``places`` the checksums of a pack's
    pages are computed again.

    Returns those pages that fail it, as text: they are what was stored, and were damaged then.
    Raises ``DamagedObject``, ``IdentityNeeded``.
    """
    kind = _kind_of(key, layout)
    if kind == "packs":
        return _open_pack(data, key, keyring, places)
    if kind in ("manifests", "manifests-copy", "partials"):
        parse_manifest(data, key, keyring).close()
    elif kind in ("wal", "history"):
        _open_wal(data, key, keyring)
    elif kind in _TYPES:
        header = envelope.parse_header(
            data, key, object_type=_TYPES[kind], repository_id=keyring.repository_id
        )
        for _ in envelope.read_frames(data, keyring, header, key):
            pass
    return []


def _kind_of(key: str, layout: Layout) -> str:
    """The folder that an object lies in; of those in ``admin``, the folder within."""
    parts = key[len(layout.root) :].split("/")
    return "/".join(parts[:2]) if parts[0] == "admin" else parts[0]


def _check_record_place(members: Mapping[str, Any], key: str, kind: str) -> None:
    parts = key.split("/")
    own = {"pins": ("attempt", parts[-2]), "voids": ("backup", parts[-1])}.get(kind)
    if own is not None and members.get(own[0]) != own[1]:
        raise envelope.damaged(key, "it is another record, in the wrong place")


def _check_place(plain: dict[str, Any], key: str, kind: str) -> None:
    parts = key.split("/")
    if kind == "packs":
        own = [plain.get("attempt"), plain.get("number")]
        is_here = own == [parts[-2], int(parts[-1])] if parts[-1].isdecimal() else True
    elif kind in ("manifests", "manifests-copy"):
        is_here = plain.get("backup") == parts[-1]
    elif kind == "partials":
        is_here = plain.get("attempt") == parts[-2]
    elif kind in ("wal", "history"):
        is_here = plain.get("name") == parts[-1]
    elif kind == "tails":
        is_here = plain.get("number") == int(parts[-1]) if parts[-1].isdecimal() else True
    else:
        is_here = plain.get("key") == key
    if not is_here:
        raise envelope.damaged(key, "it is another object, in the wrong place")


def _open_wal(data: bytes, key: str, keyring: Keyring) -> None:
    header, frames = open_wal_object(data, key, keyring)
    content = b"".join(frames)
    if len(content) != header.size:
        raise envelope.damaged(key, "its content has another length than its header says")
    if salted_hash(bytes.fromhex(header.salt), content) != header.blake3:
        raise envelope.damaged(key, "its content is not what its header says")


def _open_pack(data: bytes, key: str, keyring: Keyring, places: PagePlaces | None) -> list[str]:
    header = envelope.parse_header(
        data, key, object_type=envelope.PACK, repository_id=keyring.repository_id
    )
    index_offset, frames, _ = envelope.check_trailer(data, key)
    opener = envelope.opener_for(keyring, header, key)
    index = parse_index(opener.open_at(data, index_offset, number=frames - 1, final=True), key)
    if len(index.kinds) != frames - 1:
        raise envelope.damaged(key, "its index names another number of frames")
    known = keyring.page_hash_key_for(index.hash_kind, index.hash_shown)
    attempt, number = key.split("/")[-2:]
    at = 0
    failed: list[str] = []
    for frame, offset in enumerate(index.offsets):
        plain = opener.open_at(data, offset, number=frame)
        size = index.pages[frame] * HASH_SIZE
        if size and known is not None:
            scan = scan_pages(plain, key=known.key, page_size=index.page_size, verify=False)
            if scan.hashes != index.hashes[at : at + size]:
                raise envelope.damaged(key, f"pages of frame {frame} are not what was hashed")
        at += size
        if places is not None and index.kinds[frame] == envelope.DATA:
            pack = (attempt, int(number))
            failed += _failed_pages(plain, index.page_size, places, pack, frame)
    return failed


def _failed_pages(
    plain: bytes, page_size: int, places: PagePlaces, pack: tuple[str, int], frame: int
) -> list[str]:
    """Pages of a frame whose checksum fails for a reason that nobody has told."""
    found = []
    with memoryview(plain) as view:
        for run in places.runs(*pack, frame):
            begin = run.inside * page_size
            piece = view[begin : begin + run.pages * page_size]
            scan = scan_pages(piece, key=_NO_KEY, page_size=page_size, first_block=run.block)
            for page in scan.failed:
                is_known = places.is_known(*pack, frame=frame, page=run.inside + page.index)
                if not (is_known or places.is_healed(pack[0], page)):
                    found.append(f"page {run.first + page.index} of {run.path}")
            piece.release()
    return found
