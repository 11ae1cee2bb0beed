"""A parent's page hashes, read again from the indexes of its packs (format, sections 4 and 5).

Needs the metadata key and no identity. What cannot be had (another key, an index that is damaged)
stays unknown, and such pages count as changed: nothing that is missing here makes a backup wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgkeep.backup.hash_cache import HashReader, HashWriter
from pgkeep.backup.parent_maps import ParentMaps
from pgkeep.errors import LocalIOError
from pgkeep.postgres.page import HASH_SIZE, scan_pages
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow
from pgkeep.repository.map import HOLE
from pgkeep.repository.map_rows import MapRows, PackKey
from pgkeep.repository.pack import PackInfo
from pgkeep.repository.pack_indexes import PackIndexes
from pgkeep.seal.keyring import PageHashKey

_REQUESTS = 8


def rebuild_hashes(
    repository: Repository,
    layout: Layout,
    *,
    folder: Path,
    attempt: str,
    key: PageHashKey,
    maps: ParentMaps,
    packs: dict[PackKey, PackInfo],
    files: Iterable[FileRow],
    page_size: int,
) -> HashReader:
    """Write the cache of a parent into ``folder``, and open it.

    Raises ``LocalIOError`` when that is not possible, and what the store raises.
    """
    identity = repository.keyring.repository_id.hex()
    writer = HashWriter(folder, attempt, repository_id=identity, key=key)
    indexes = PackIndexes(repository, layout, packs, key)
    zero = scan_pages(bytes(page_size), key=key.key, page_size=page_size, verify=False).hashes

    def add(row: FileRow) -> None:
        rows = maps.rows(row)
        writer.add(row.path, _hashes_of(rows, indexes, zero, page_size))

    # In the order of their maps: neighbours there lie in the same packs.
    ordered = sorted(files, key=lambda row: (row.map_pack, row.map_frame, row.map_slot))
    try:
        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="hashes") as pool:
            for start in range(0, len(ordered), 1024):
                list(pool.map(add, ordered[start : start + 1024]))
        writer.save()
    finally:
        writer.close()
    found = HashReader.open(folder, attempt, repository_id=identity, key=key)
    if found is None:
        problem = writer.problem
        raise LocalIOError(
            f"The page hashes of the last backup cannot be kept in {folder}.",
            why=f"{problem.strerror}." if problem else "They were removed meanwhile.",
            remedy="Make room there (a thousandth of the database), or set PGKEEP_STATE to another "
            "directory.",
            path=folder,
        )
    return found


def _hashes_of(rows: MapRows, indexes: PackIndexes, zero: bytes, page_size: int) -> bytes:
    pages = -(-rows.size_bytes // page_size)
    hashes = bytearray(pages * HASH_SIZE)
    for first, count, frame, inside in rows.extents.T.tolist():
        at = first * HASH_SIZE
        if frame == HOLE:
            whole = min(count, rows.size_bytes // page_size - first)
            known = zero * max(whole, 0)
        else:
            pack, number = rows.frames[0][frame], rows.frames[1][frame]
            known = indexes.hashes(rows.packs[pack], int(number), inside, count)
        hashes[at : at + len(known)] = known
    return bytes(hashes)
