"""Reading the maps of a backup, one map block after the other.

The maps of ten terabytes have 40 million extents, more than anybody should hold at once. So a
block is in memory while its files are handed out, and what lies ahead of it is a few blocks as they
are stored: enough that a store which answers slowly is not waited for at each of them.

What a manifest needs to say before any map is read (sizes, the count of damaged pages) is used
instead wherever it will do; the maps themselves are read in full once, while the files are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow, Manifest
from pgkeep.repository.map import MapBlock
from pgkeep.repository.map_table import page_table
from pgkeep.repository.pack import PackInfo
from pgkeep.repository.pack_reading import PackReader
from pgkeep.seal.envelope import PREFIX_SIZE, damaged
from pgkeep.storage.fallback import read_sound

_REQUESTS = 8
_AHEAD_BYTES = 16 << 20


class FileBlock(NamedTuple):
    """A map block, and those of its maps that are wanted: file ``files[i]`` (which counts in the
    list that the maps were asked for with) has the map in slot ``slots[i]``.

    ``known`` are the packs that the manifest names; ``name`` is for errors.
    """

    name: str
    block: MapBlock
    files: list[int]
    slots: list[int]
    known: Mapping[tuple[str, int], PackInfo]

    def pack(self, index: int) -> PackInfo:
        """What the manifest says of a pack of the block. It need not know all of them: other maps
        of the block may be of files that are gone. Raises ``DamagedObject``."""
        attempt, number = self.block.packs[index]
        pack = self.known.get((attempt, number))
        if pack is None:
            raise DamagedObject(
                f"The manifest does not name pack {number} of {attempt}, which a map needs.",
                remedy="Restore another backup.",
            )
        return pack


class MapReader:
    """The maps of ``files``, which are in the order in which ``Manifest.files`` yields them.

    Whatever reads maps raises ``DamagedObject``, also when the manifest does not name a pack that a
    map needs, ``IdentityNeeded``, and what the store raises.
    """

    def __init__(
        self, repository: Repository, layout: Layout, manifest: Manifest, files: Sequence[FileRow]
    ) -> None:
        self._repository, self._layout = repository, layout
        self.files, self.page_size = files, manifest.head.page_size
        self._by_id = manifest.packs()
        self._reader = PackReader(repository.keyring, layout)
        self.packs = {(pack.attempt, pack.number): pack for pack in self._by_id.values()}

    def blocks(self, wanted: Iterable[int] | None = None) -> Generator[FileBlock]:
        """Every block that has a map of a wanted file (of any file), as the manifest orders them.

        Close the generator if it is not used up.
        """
        numbers = range(len(self.files)) if wanted is None else wanted
        groups = (list(group) for _, group in groupby(numbers, key=self._place_of))
        for group, stored in self._read_ahead(groups):
            yield self._open(group, stored)

    def data_bytes(self, wanted: Iterable[int] | None = None) -> int:
        """How much of the files (of all) is not holes, to a page. Reads their maps."""
        pages = 0
        for found in self.blocks(wanted):
            table = page_table(found.block, found.slots, name=found.name)
            pages += int(table.pages.sum())
        return pages * self.page_size

    def failed_pages(self) -> list[tuple[str, int]]:
        """(path, page) of what was damaged when it was read. Reads the maps of such files."""
        wanted = [number for number, file in enumerate(self.files) if file.failed_pages]
        return [
            (self.files[number].path, page)
            for found in self.blocks(wanted)
            for number, slot in zip(found.files, found.slots, strict=True)
            for page in found.block[slot].failed
        ]

    # -- inside -----------------------------------------------------------------------------------

    def _place_of(self, number: int) -> tuple[int, int]:
        return self.files[number].map_pack, self.files[number].map_frame

    def _read_ahead(self, groups: Iterator[list[int]]) -> Iterator[tuple[list[int], bytes]]:
        """The stored blocks. ``Executor.map`` would ask for all of them at once."""
        waiting: deque[tuple[list[int], Future[bytes]]] = deque()
        ahead = 0
        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="maps") as pool:
            try:
                for group in groups:
                    waiting.append((group, pool.submit(self._read, group[0])))
                    ahead += self.files[group[0]].map_stored
                    while len(waiting) > _REQUESTS or (ahead > _AHEAD_BYTES and len(waiting) > 1):
                        first, future = waiting.popleft()
                        ahead -= self.files[first[0]].map_stored
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, number: int) -> bytes:
        file = self.files[number]
        pack = self._pack_of(file)
        place = (file.map_offset, PREFIX_SIZE + file.map_stored)
        return read_sound(
            self._repository.store,
            pack.key(self._layout),
            lambda store: self._reader.range(store, pack, *place),
        )

    def _open(self, numbers: list[int], stored: bytes) -> FileBlock:
        files = [self.files[number] for number in numbers]
        pack = self._pack_of(files[0])
        name = pack.key(self._layout)
        opener = pack.opener(self._repository.keyring, self._layout)

        def opened(data: bytes) -> MapBlock:
            return MapBlock(opener.open_at(data, 0, number=files[0].map_frame), name)

        try:
            block = opened(stored)
        except DamagedObject:
            place = (files[0].map_offset, PREFIX_SIZE + files[0].map_stored)
            block = read_sound(
                self._repository.store,
                name,
                lambda one: opened(self._reader.range(one, pack, *place)),
            )
        if block.page_size != self.page_size:
            raise damaged(name, f"a map block has pages of {block.page_size} bytes")
        sizes = block.columns().sizes
        for file in files:
            slot = file.map_slot
            if slot >= len(block):
                raise damaged(name, f"a map block has no map {slot}")
            if block.path(slot) != file.path or sizes[slot] != file.size_bytes:
                raise damaged(name, f"slot {slot} of a map block is not the map of {file.path}")
        slots = [file.map_slot for file in files]
        return FileBlock(name, block, numbers, slots, self.packs)

    def _pack_of(self, file: FileRow) -> PackInfo:
        pack = self._by_id.get(file.map_pack)
        if pack is None:
            raise DamagedObject(
                f"The manifest does not name the pack of the map of {file.path}.",
                remedy="Restore another backup.",
            )
        return pack
