"""Reading parts of packs, and seeing that each is the pack that the manifest names.

A sealed frame is bound to its object, and opens nowhere else. A plain one is bound to nothing: of
another pack whose frames lie in the same places, the wrong bytes would be taken for the right ones.
So the header of a plain pack is read along, once, and its id compared. A header that is damaged
says nothing of the frames, which have checksums of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pgkeep.errors import DamagedObject
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack import PackInfo
from pgkeep.seal.envelope import PACK, damaged, parse_header
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.interface import Buffer, Store

_HEADER_BYTES = 512


class PackReader:
    """Reads ranges of packs. May be used by many threads."""

    def __init__(self, keyring: Keyring, layout: Layout) -> None:
        self._keyring, self._layout = keyring, layout
        self._seen: set[tuple[int, bytes]] = set()
        self._lock = threading.Lock()

    def ranges(
        self, store: Store, pack: PackInfo, ranges: Sequence[tuple[int, int]]
    ) -> Sequence[Buffer]:
        """Bytes of a pack by (offset, length), all of them.

        Raises ``DamagedObject`` where it ends too early, or is another pack; ``ObjectNotFound``,
        and what the store raises.
        """
        key = pack.key(self._layout)
        place = (id(store), pack.object_id)
        if self._keyring.sealed or place in self._seen:
            found = store.get_ranges(key, ranges)
        else:
            header, *found = store.get_ranges(key, [(0, _HEADER_BYTES), *ranges])
            self._compare(bytes(header), pack, key)
            with self._lock:
                self._seen.add(place)
        for (start, length), data in zip(ranges, found, strict=True):
            if len(data) != length:
                raise damaged(key, f"it ends before byte {start + length}")
        return found

    def range(self, store: Store, pack: PackInfo, start: int, length: int) -> bytes:
        """So many bytes of a pack. Raises as :meth:`ranges`."""
        key = pack.key(self._layout)
        place = (id(store), pack.object_id)
        if not (self._keyring.sealed or place in self._seen):
            self._compare(store.get_range(key, 0, _HEADER_BYTES), pack, key)
            with self._lock:
                self._seen.add(place)
        data = store.get_range(key, start, length)
        if len(data) != length:
            raise damaged(key, f"it ends before byte {start + length}")
        return data

    def _compare(self, data: bytes, pack: PackInfo, key: str) -> None:
        identity = self._keyring.repository_id
        try:
            header = parse_header(data, key, object_type=PACK, repository_id=identity)
        except DamagedObject:
            return
        if header.object_id != pack.object_id:
            raise damaged(key, "it is another pack than the manifest names")
