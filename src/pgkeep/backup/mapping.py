"""From copied files to map blocks and manifest rows.

A file with pages whose checksum failed has to wait for the backup's stop: only then is it known
which of them WAL repairs. All others go into the next block at once, so that memory stays
small.
"""

from __future__ import annotations

from pgkeep.backup.copy import CopiedFile
from pgkeep.backup.packing import PackStream
from pgkeep.postgres.lsn import Lsn
from pgkeep.repository.manifest import FileRow, ManifestBuilder
from pgkeep.repository.map import build_block

_BLOCK_MAPS = 256
_BLOCK_FRAMES = 16384


class MapCollector:
    """Takes copied files, one at a time, and stores their maps."""

    def __init__(self, stream: PackStream, manifest: ManifestBuilder, *, page_size: int) -> None:
        self._filler = stream.open(pooled=False)
        self._manifest, self._page_size = manifest, page_size
        self._ready: list[CopiedFile] = []
        self._frames = 0
        self._suspect: list[CopiedFile] = []
        self.failed: list[tuple[str, int]] = []

    def add(self, copied: CopiedFile) -> None:
        """One more file."""
        if copied.suspects:
            self._suspect.append(copied)
        else:
            self._add_judged(copied)

    def finish(self, *, start_lsn: Lsn, stop_lsn: Lsn) -> None:
        """Judge what had to wait, and hand over the last block and pack.

        A failing page is exempt if its LSN lies within the backup: replay writes it anew. A page
        that claims to be newer than the backup's stop is damaged.
        """
        for copied in self._suspect:
            copied.map.failed.extend(
                suspect.page
                for suspect in copied.suspects
                if not start_lsn <= suspect.lsn <= stop_lsn
            )
            self.failed.extend((copied.file.path, page) for page in copied.map.failed)
            self._add_judged(copied)
        self._store_block()
        self._filler.flush()

    def _add_judged(self, copied: CopiedFile) -> None:
        self._ready.append(copied)
        self._frames += len(copied.map.frames)
        if len(self._ready) >= _BLOCK_MAPS or self._frames >= _BLOCK_FRAMES:
            self._store_block()

    def _store_block(self) -> None:
        if not self._ready:
            return
        block = build_block([copied.map for copied in self._ready], self._page_size)
        at = self._filler.add_map_block(block)
        pack = self._manifest.pack_id(at.attempt, at.pack)
        self._manifest.add_files(
            FileRow(
                copied.file.path,
                copied.file.area,
                copied.map.size_bytes,
                copied.file.mode,
                copied.file.mtime_us,
                copied.file.ctime_us,
                copied.file.inode,
                pack,
                at.number,
                at.offset,
                at.stored,
                slot,
                len(copied.map.failed),
            )
            for slot, copied in enumerate(self._ready)
        )
        self._ready, self._frames = [], 0
