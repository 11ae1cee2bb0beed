"""From copied files to map blocks and manifest rows.

A file with pages whose checksum failed has to wait for the backup's stop: only then is it known
which of them WAL repairs. All others go into the next block at once, so that memory stays
small. A file whose map is the parent's only gets a row.

What was collected may become a partial manifest at any time (``unfinished.py``). That one may name
a block only when the packs of all its frames are stored, which is later than the block: hence
:class:`Block`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.packing import PackStream
from pgkeep.backup.parent_maps import MapPlace
from pgkeep.backup.parents import Unread
from pgkeep.backup.source import SourceFile
from pgkeep.postgres.lsn import Lsn
from pgkeep.repository.manifest import FileRow, ManifestBuilder
from pgkeep.repository.map import FileMap, build_block
from pgkeep.repository.map_rows import MapRows, PackKey

_BLOCK_MAPS = 256
_BLOCK_FRAMES = 16384


class Mapped(NamedTuple):
    """A file and where its map stands, for the rows of manifests."""

    source: SourceFile
    size_bytes: int
    failed_pages: int
    place: MapPlace

    def row(self, manifest: ManifestBuilder) -> FileRow:
        """The file's row, with the number that its map's pack has in this manifest."""
        source, place = self.source, self.place
        return FileRow(
            source.path,
            source.area,
            self.size_bytes,
            source.mode,
            source.mtime_us,
            source.ctime_us,
            source.inode,
            manifest.pack_id(place.attempt, place.number),
            place.frame,
            place.offset,
            place.stored,
            place.slot,
            self.failed_pages,
        )


class Block(NamedTuple):
    """Files whose rows are known, and the packs that their maps name; their own packs are in
    it, too."""

    files: tuple[Mapped, ...]
    packs: frozenset[PackKey]


class MapCollector:
    """Takes copied files, from any thread, and stores their maps."""

    def __init__(
        self,
        stream: PackStream,
        manifest: ManifestBuilder,
        *,
        page_size: int,
        keep_blocks: bool = False,
    ) -> None:
        self._filler = stream.open(pooled=False)
        self._manifest, self._page_size = manifest, page_size
        self._ready: list[tuple[SourceFile, FileMap | MapRows]] = []
        self._frames = 0
        self._suspect: list[CopiedFile] = []
        self._lock = threading.Lock()
        self._keep_blocks = keep_blocks
        self._blocks: list[Block] = []
        self.failed: list[tuple[str, int]] = []
        self.named: set[PackKey] = set()
        self.kept: list[str] = []
        self.unread: list[str] = []

    def add(self, copied: CopiedFile) -> None:
        """One more file."""
        with self._lock:
            if not copied.was_read:
                self.unread.append(copied.file.path)
            if copied.suspects:
                self._suspect.append(copied)
            else:
                self._add_judged(copied)

    def keep(self, unread: Sequence[Unread]) -> None:
        """Files that were not read, since they are what they were."""
        files = tuple(Mapped(one.file, one.file.size_bytes, 0, one.place) for one in unread)
        with self._lock:
            self._manifest.add_files(mapped.row(self._manifest) for mapped in files)
            paths = [one.file.path for one in unread]
            self.kept += paths
            self.unread += paths
            if self._keep_blocks and files:
                self._blocks.append(Block(files, frozenset()))

    def take_blocks(self) -> list[Block]:
        """What was collected since the last call, all of it stored or being stored."""
        with self._lock:
            self._store_block()
            self._filler.flush()
            blocks, self._blocks = self._blocks, []
        return blocks

    def finish(self, *, start_lsn: Lsn, stop_lsn: Lsn) -> None:
        """Judge what had to wait, and hand over the last block and pack.

        A failing page is exempt if its LSN lies within the backup: replay writes it anew. A page
        that claims to be newer than the backup's stop is damaged.
        """
        with self._lock:
            for copied in self._suspect:
                failed = [
                    suspect.page
                    for suspect in copied.suspects
                    if not start_lsn <= suspect.lsn <= stop_lsn
                ]
                assert copied.map is not None
                self._add_judged(copied._replace(map=_with_failed(copied.map, failed)))
            self._store_block()
            self._filler.flush()

    def _add_judged(self, copied: CopiedFile) -> None:
        if copied.map is None:
            assert copied.kept is not None
            self._keep(copied, copied.kept)
            return
        self.failed.extend((copied.file.path, int(page)) for page in copied.map.failed)
        self._ready.append((copied.file, copied.map))
        self._frames += _count_frames(copied.map)
        if len(self._ready) >= _BLOCK_MAPS or self._frames >= _BLOCK_FRAMES:
            self._store_block()

    def _keep(self, copied: CopiedFile, place: MapPlace) -> None:
        mapped = Mapped(copied.file, copied.file.size_bytes, 0, place)
        self._manifest.add_files([mapped.row(self._manifest)])
        self.kept.append(copied.file.path)
        if self._keep_blocks:
            self._blocks.append(Block((mapped,), frozenset()))

    def _store_block(self) -> None:
        if not self._ready:
            return
        block = build_block([one for _, one in self._ready], self._page_size)
        at = self._filler.add_map_block(block)
        packs = {(at.attempt, at.pack), *_packs_of([one for _, one in self._ready])}
        files = tuple(
            Mapped(
                source,
                one.size_bytes,
                len(one.failed),
                MapPlace(at.attempt, at.pack, at.number, at.offset, at.stored, slot),
            )
            for slot, (source, one) in enumerate(self._ready)
        )
        self._manifest.add_files([mapped.row(self._manifest) for mapped in files])
        self.named |= packs
        if self._keep_blocks:
            self._blocks.append(Block(files, frozenset(packs)))
        self._ready, self._frames = [], 0


def _with_failed(one: FileMap | MapRows, pages: Sequence[int]) -> FileMap | MapRows:
    """The map with these pages marked, beside those that were marked before and not changed."""
    import numpy as np

    if isinstance(one, FileMap):
        one.failed = sorted({*one.failed, *pages})
        return one
    return one._replace(failed=np.union1d(one.failed, np.array(pages, dtype=np.int64)))


def _count_frames(one: FileMap | MapRows) -> int:
    return (
        len(one.frames)
        if isinstance(one, FileMap)
        else max(one.frames.shape[1], one.extents.shape[1] // 4)
    )


def _packs_of(maps: Sequence[FileMap | MapRows]) -> Iterator[PackKey]:
    for one in maps:
        if isinstance(one, FileMap):
            yield from {(frame.attempt, frame.pack) for frame in one.frames}
        else:
            yield from one.packs
