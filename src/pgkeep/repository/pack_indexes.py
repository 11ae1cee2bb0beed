"""Page hashes by frame, out of the indexes of packs (format, sections 4 and 5).

Needs the metadata key and no identity. What cannot be had (hashes made with another key, an index
that is damaged or gone) is not known, and whoever compares takes that for a difference.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.map_rows import PackKey
from pgkeep.repository.pack import PackIndex, PackInfo, fetch_index
from pgkeep.seal.keyring import PageHashKey

_KEPT_INDEXES = 256  # 150 KB each


class PackIndexes:
    """Pack indexes, the last few of them kept. May be used by many threads."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        packs: Mapping[PackKey, PackInfo],
        key: PageHashKey,
    ) -> None:
        self._repository, self._layout, self._packs, self.key = repository, layout, packs, key
        self._kept: OrderedDict[PackKey, tuple[PackIndex, Any] | None] = OrderedDict()
        self._lock = threading.Lock()

    def hashes(self, pack: PackKey, frame: int, inside: int, count: int) -> bytes:
        """The hashes of some pages of a frame; empty when they are not known."""
        with self._lock:
            is_kept = pack in self._kept
            entry = self._kept.get(pack)
            if is_kept:
                self._kept.move_to_end(pack)
        if not is_kept:
            entry = self._read(pack)
            with self._lock:
                self._kept[pack] = entry
                while len(self._kept) > _KEPT_INDEXES:
                    self._kept.popitem(last=False)
        if entry is None:
            return b""
        index, starts = entry
        if frame >= len(index.pages) or inside + count > index.pages[frame]:
            return b""
        at = (int(starts[frame]) + inside) * HASH_SIZE
        return index.hashes[at : at + count * HASH_SIZE]

    def _read(self, pack: PackKey) -> tuple[PackIndex, Any] | None:
        import numpy as np

        info = self._packs.get(pack)
        if info is None:
            return None
        try:
            index = fetch_index(
                self._repository.store, self._repository.keyring, info, self._layout
            )
        except (DamagedObject, ObjectNotFound):
            return None
        if (index.hash_kind, index.hash_shown) != (self.key.kind, self.key.shown):
            return None
        starts = np.concatenate(([0], np.cumsum(np.array(index.pages, dtype=np.int64))))
        return index, starts
