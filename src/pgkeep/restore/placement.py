"""Where each byte of a restored file comes from: the maps of a backup, turned around.

A map says, file by file, which frames make it up. A restore goes the other way: it reads packs
from their first byte to their last, and wants to know for each frame where its pages go. That
list has a row for each MiB of the database, so it is kept in columns: 72 bytes a row, 75 MB for
a terabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow, Manifest
from pgkeep.repository.map import MapBlock
from pgkeep.repository.map_table import page_table
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
            collector.add(rows, block)
    return collector.finish()


class _Collector:
    """Gathers the rows of block after block, in columns of our own numbering."""

    def __init__(
        self, repository: Repository, layout: Layout, manifest: Manifest, skip: frozenset[str]
    ) -> None:
        self._repository, self._layout, self._skip = repository, layout, skip
        self._by_id = manifest.packs()
        self._result = Placements(manifest.head.page_size)
        self._numbers: dict[tuple[str, int], int] = {}
        self._known = {(pack.attempt, pack.number): pack for pack in self._by_id.values()}
        self._parts: list[Any] = []

    def read_block(self, rows: Sequence[FileRow]) -> MapBlock:
        one = rows[0]
        pack = self._pack_of(one)
        key = pack.key(self._layout)
        length = one.map_stored + PREFIX_SIZE
        data = self._repository.store.get_range(key, one.map_offset, length)
        opener = pack.opener(self._repository.keyring, self._layout)
        return MapBlock(opener.open_at(data, 0, number=one.map_frame), key)

    def add(self, rows: Sequence[FileRow], block: MapBlock) -> None:
        import numpy as np

        key = self._pack_of(rows[0]).key(self._layout)
        if block.page_size != self._result.page_size:
            raise damaged(key, f"a map block has pages of {block.page_size} bytes")
        wanted = [row for row in rows if row.path not in self._skip]
        table = page_table(block, [row.map_slot for row in wanted], name=key)
        numbers = np.full(len(block), -1, dtype=np.int64)
        columns = block.columns()
        for row in wanted:
            slot = row.map_slot
            if block.path(slot) != row.path or columns.sizes[slot] != row.size_bytes:
                raise damaged(key, f"slot {slot} of a map block is not the map of {row.path}")
            numbers[slot] = len(self._result.files)
            self._result.files.append(row)
            if row.failed_pages:
                self._result.failed += [(row.path, page) for page in block[slot].failed]
        # Other maps of the block may be of files that are gone, and their packs, too.
        packs = np.full(len(block.packs), -1, dtype=np.int64)
        for index in np.unique(table.pack).tolist():
            packs[index] = self._number_of(*block.packs[index])
        frames = (table.number, table.offset, table.stored, table.plain)
        pages = (table.first, table.pages, table.inside)
        part = np.array([packs[table.pack], *frames, numbers[table.slot], *pages], dtype=np.int64)
        self._parts.append(part.reshape(len(_COLUMNS), -1))

    def finish(self) -> Placements:
        import numpy as np

        empty = np.zeros((len(_COLUMNS), 0), dtype=np.int64)
        columns = np.concatenate([empty, *self._parts], axis=1)
        order = np.lexsort((columns[6], columns[5], columns[2], columns[0]))
        self._result.columns = columns[:, order]
        return self._result

    def _pack_of(self, row: FileRow) -> PackInfo:
        pack = self._by_id.get(row.map_pack)
        if pack is None:
            raise DamagedObject(
                f"The manifest does not name the pack of the map of {row.path}.",
                remedy="Restore another backup.",
            )
        return pack

    def _number_of(self, attempt: str, number: int) -> int:
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
