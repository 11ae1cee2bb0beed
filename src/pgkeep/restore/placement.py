"""Where each byte of a restored file comes from: the maps of a backup, turned around.

A map says, file by file, which frames make it up. A restore goes the other way: it reads packs
from their first byte to their last, and wants to know for each frame where its pages go. That
list has a row for each MiB of the database, so it is kept in columns: 40 bytes a row, 40 MB for
a terabyte.

What comes from the repository is checked before anything is made of it: a path that would lead
out of the target, an extent beyond its frame, a file that its extents do not cover.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow, Manifest
from pgkeep.repository.map import HOLE, FileMap, MapBlock
from pgkeep.repository.pack import PackInfo
from pgkeep.seal.envelope import PREFIX_SIZE, damaged

_REQUESTS = 8
_COLUMNS = ("pack", "number", "offset", "stored", "plain", "file", "first", "pages", "inside")


class Placement(NamedTuple):
    """``pages`` pages of a frame, from page ``inside``, go to ``file`` from page ``first`` on.

    ``pack`` and ``file`` count from zero in the lists of :class:`Placements`.
    """

    pack: int
    number: int
    offset: int
    stored: int
    plain: int
    file: int
    first: int
    pages: int
    inside: int


@dataclass
class Placements:
    """All files of a backup, and where their pages are, ordered by pack and place in it."""

    page_size: int
    files: list[FileRow] = field(default_factory=list)
    packs: list[PackInfo] = field(default_factory=list)
    failed: list[tuple[str, int]] = field(default_factory=list)
    columns: Any = None

    def __len__(self) -> int:
        return len(self.columns[0])

    def rows(self, start: int, end: int) -> list[Placement]:
        """A stretch of the placements."""
        return list(map(Placement._make, self.columns[:, start:end].T.tolist()))

    def written_bytes(self) -> int:
        """How many bytes will be written: the files without their holes (to a page)."""
        return int(self.columns[_COLUMNS.index("pages")].sum()) * self.page_size

    def stored_bytes(self) -> int:
        """How many stored bytes have to be read, each frame counted once."""
        import numpy as np

        keys = self.columns[:2]
        fresh = np.ones(len(self), dtype=bool)
        fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
        return int(self.columns[_COLUMNS.index("stored")][fresh].sum())

    def of_files(self) -> Iterator[tuple[int, list[int]]]:
        """For each file that has placements, their indexes in order of its pages."""
        import numpy as np

        file, first = self.columns[5], self.columns[6]
        order = np.lexsort((first, file))
        bounds = np.flatnonzero(np.diff(file[order])) + 1
        for part in np.split(order, bounds):
            if len(part):
                yield int(file[part[0]]), part.tolist()


def read_placements(
    repository: Repository, layout: Layout, manifest: Manifest, *, skip: frozenset[str]
) -> Placements:
    """Read all maps of a backup. Files in ``skip`` are left out.

    Raises ``DamagedObject``, ``IdentityNeeded``, and what the store raises.
    """
    collector = _Collector(repository, layout, manifest, skip)
    groups = [
        list(rows) for _, rows in groupby(manifest.files(), key=lambda r: (r.map_pack, r.map_frame))
    ]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for rows, block in zip(groups, pool.map(collector.read_block, groups), strict=True):
            for row in rows:
                collector.add(row, block[row.map_slot])
    return collector.finish()


class _Collector:
    def __init__(
        self, repository: Repository, layout: Layout, manifest: Manifest, skip: frozenset[str]
    ) -> None:
        self._repository, self._layout, self._skip = repository, layout, skip
        self._by_id = manifest.packs()
        self._result = Placements(manifest.head.page_size)
        self._numbers: dict[tuple[str, int], int] = {}
        self._known = {(pack.attempt, pack.number): pack for pack in self._by_id.values()}
        self._columns = tuple(array("q") for _ in _COLUMNS)

    def read_block(self, rows: Sequence[FileRow]) -> MapBlock:
        one = rows[0]
        pack = self._by_id[one.map_pack]
        key = pack.key(self._layout)
        length = one.map_stored + PREFIX_SIZE
        data = self._repository.store.get_range(key, one.map_offset, length)
        opener = pack.opener(self._repository.keyring, self._layout)
        block = MapBlock(opener.open_at(data, 0, number=one.map_frame), key)
        if max(row.map_slot for row in rows) >= len(block):
            raise damaged(key, "a map block has fewer maps than the manifest says")
        return block

    def add(self, row: FileRow, file_map: FileMap) -> None:
        if row.path in self._skip:
            return
        _check(row, file_map, self._result.page_size)
        file = len(self._result.files)
        self._result.files.append(row)
        self._result.failed += [(row.path, page) for page in file_map.failed]
        packs = [self._pack(frame.attempt, frame.pack) for frame in file_map.frames]
        for extent in file_map.extents:
            if extent.frame == HOLE:
                continue
            frame = file_map.frames[extent.frame]
            values = (
                packs[extent.frame],
                *frame[2:],
                file,
                extent.first,
                extent.pages,
                extent.page_in_frame,
            )
            for column, value in zip(self._columns, values, strict=True):
                column.append(value)

    def finish(self) -> Placements:
        import numpy as np

        columns = np.array([np.frombuffer(c, dtype=np.int64) for c in self._columns])
        order = np.lexsort((columns[6], columns[5], columns[2], columns[0]))
        self._result.columns = columns[:, order]
        return self._result

    def _pack(self, attempt: str, number: int) -> int:
        key = (attempt, number)
        if key not in self._numbers:
            if key not in self._known:
                raise DamagedObject(
                    f"The manifest does not name pack {number} of {attempt}, which a map needs.",
                    remedy="Restore another backup.",
                )
            self._numbers[key] = len(self._result.packs)
            self._result.packs.append(self._known[key])
        return self._numbers[key]


def check_path(path: str) -> str:
    """Return a relative path that stays below its directory; raise ``DamagedObject`` else."""
    parts = path.split("/")
    if path.startswith("/") or "\0" in path or {"", ".", ".."} & set(parts):
        raise DamagedObject(
            f"The manifest names the path {path!r}, which cannot be in a data directory.",
            remedy="Restore another backup; this one was not written by pgkeep.",
        )
    return path


def _check(row: FileRow, file_map: FileMap, page_size: int) -> None:
    """Raise ``DamagedObject`` unless the map covers the file, and nothing else."""
    if row.area == 0:
        check_path(row.path)
    if file_map.path != row.path or file_map.size_bytes != row.size_bytes:
        raise _wrong_map(row, f"it is that of {file_map.path}, {file_map.size_bytes} bytes")
    page = 0
    for extent in file_map.extents:
        if extent.first != page or extent.pages < 1:
            raise _wrong_map(row, f"nothing is said of page {page}")
        page += extent.pages
        if extent.frame == HOLE:
            continue
        if extent.frame >= len(file_map.frames):
            raise _wrong_map(row, "it names a frame that it does not list")
        # A file may end within its last page.
        end = min(page * page_size, row.size_bytes) - extent.first * page_size
        if extent.page_in_frame * page_size + end > file_map.frames[extent.frame].plain:
            raise _wrong_map(row, "an extent reaches beyond its frame")
    if page != -(-row.size_bytes // page_size):
        raise _wrong_map(row, f"it ends at page {page}")


def _wrong_map(row: FileRow, why: str) -> DamagedObject:
    return DamagedObject(
        f"The map of {row.path} is wrong: {why}.", remedy="Restore another backup."
    )
