"""The maps of a parent: which packs they name, and the map of one file when it is asked for.

Blocks are read from the repository, which needs the metadata key and no identity. What has been
read lately is kept, since neighbours in a block are neighbours in the copy.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow
from pgkeep.repository.map import MapBlock
from pgkeep.repository.map_rows import MapRows, PackKey
from pgkeep.repository.pack import INDEX_BYTES, PackInfo
from pgkeep.repository.pack_reading import PackReader
from pgkeep.seal.envelope import PREFIX_SIZE, damaged

_KEPT_BLOCKS_BYTES = 64 << 20
_REQUESTS = 8
_PAGE_BYTES = 8192  # near enough: it only weighs


class MapPlace(NamedTuple):
    """Where a map stands: slot ``slot`` of the block that is frame ``frame`` of a pack."""

    attempt: str
    number: int
    frame: int
    offset: int
    stored: int
    slot: int

    @property
    def pack(self) -> PackKey:
        return self.attempt, self.number


class FileUsage(NamedTuple):
    """What a file needs: the stored bytes that its map names in each pack, and its map, with its
    share of the block that it stands in."""

    path: str
    stored: dict[PackKey, int]
    map_pack: PackKey
    map_bytes: int

    @property
    def packs(self) -> set[PackKey]:
        return {self.map_pack, *self.stored}


def _taken(frames: Any) -> Any:
    """The bytes that frames take of their packs, with their prefixes and their rows of the index:
    where files are tiny, those are the larger part."""
    return frames[3] + PREFIX_SIZE + INDEX_BYTES + frames[4] // _PAGE_BYTES * HASH_SIZE


class ParentMaps:
    """Reads the map blocks of one manifest. May be used by many threads."""

    def __init__(self, repository: Repository, layout: Layout, packs: dict[int, PackInfo]) -> None:
        self._repository, self._layout, self._packs = repository, layout, packs
        self._reader = PackReader(repository.keyring, layout)
        self._kept: OrderedDict[tuple[int, int], tuple[int, MapBlock]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def place(self, row: FileRow) -> MapPlace:
        """Where the map of a file stands. Raises ``DamagedObject`` for a pack without a row."""
        info = self._info(row)
        return MapPlace(
            info.attempt, info.number, row.map_frame, row.map_offset, row.map_stored, row.map_slot
        )

    def rows(self, row: FileRow) -> MapRows:
        """The map of a file. Raises ``DamagedObject``, and what the store raises."""
        key = (row.map_pack, row.map_frame)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        block = kept[1] if kept is not None else self._read_and_keep(row)
        found = MapRows.of_block(block, row.map_slot)
        if found.path != row.path or found.size_bytes != row.size_bytes:
            raise damaged(self._name(row), f"a map of it is not that of {row.path}")
        return found

    def usage(self, rows: Iterable[FileRow]) -> Iterator[FileUsage]:
        """What each file needs; reads every block once, some of them ahead."""
        groups = [
            list(group)
            for _, group in groupby(
                sorted(rows, key=lambda r: (r.map_pack, r.map_frame, r.map_slot)),
                key=lambda r: (r.map_pack, r.map_frame),
            )
        ]
        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="maps") as pool:
            waiting: list[tuple[list[FileRow], Future[MapBlock]]] = []
            for group in groups:
                waiting.append((group, pool.submit(self._read, group[0])))
                if len(waiting) > 2 * _REQUESTS:
                    members, block = waiting.pop(0)
                    yield from self._usage_of(members, block.result())
            for members, block in waiting:
                yield from self._usage_of(members, block.result())

    def _usage_of(self, rows: Sequence[FileRow], block: MapBlock) -> Iterator[FileUsage]:
        import numpy as np

        columns = block.columns()
        count = len(block.packs)
        owner = np.repeat(np.arange(len(block)), np.diff(columns.first_frame.astype(np.int64)))
        key = owner * count + columns.frames[0]
        pairs, where = np.unique(key, return_inverse=True)
        sums = np.bincount(where.reshape(-1), weights=_taken(columns.frames)).astype(np.int64)
        found: dict[int, dict[PackKey, int]] = {}
        for pair, size in zip(pairs.tolist(), sums.tolist(), strict=True):
            slot, pack = divmod(pair, count)
            found.setdefault(slot, {})[block.packs[pack]] = size
        own = self._info(rows[0])
        for row in rows:
            share = row.map_stored // max(len(block), 1)
            stored = found.get(row.map_slot, {})
            yield FileUsage(row.path, stored, (own.attempt, own.number), share)

    def _read_and_keep(self, row: FileRow) -> MapBlock:
        block = self._read(row)
        with self._lock:
            key = (row.map_pack, row.map_frame)
            if key not in self._kept:
                size = 4 * row.map_stored  # about what it takes in memory
                self._kept[key] = (size, block)
                self._kept_bytes += size
                while self._kept_bytes > _KEPT_BLOCKS_BYTES and len(self._kept) > 1:
                    self._kept_bytes -= self._kept.popitem(last=False)[1][0]
        return block

    def _read(self, row: FileRow) -> MapBlock:
        info = self._info(row)
        name = info.key(self._layout)
        place = (row.map_offset, PREFIX_SIZE + row.map_stored)
        data = self._reader.range(self._repository.store, info, *place)
        opener = info.opener(self._repository.keyring, self._layout)
        plain = opener.open_at(data, 0, number=row.map_frame)
        return MapBlock(plain, name)

    def _info(self, row: FileRow) -> PackInfo:
        info = self._packs.get(row.map_pack)
        if info is None:
            raise DamagedObject(
                f"The manifest of the last backup names a map of {row.path} in no pack of it.",
                remedy="Run pgkeep backup --full.",
            )
        return info

    def _name(self, row: FileRow) -> str:
        return self._info(row).key(self._layout)
