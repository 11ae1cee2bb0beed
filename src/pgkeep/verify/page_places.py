"""Which block of its relation each page in a pack is: what its checksum depends on.

A pack does not say whose pages it holds; the maps do. So those of all backups of clusters with page
checksums are read first, about a thousandth of what there is to read, and kept as columns: 24 bytes
for a run of pages, some tens of megabytes for a terabyte.

A page that fails is one of three things. The map marks it: the backup knew, and said so. Or its LSN
lies within the backup that stored it: it was read while the server wrote it, and WAL heals it.
Any other was damaged when it was stored, and no check of hashes can see that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby, islice
from typing import Any, NamedTuple

from pgkeep.errors import DamagedObject, NoSuchBackup, ObjectNotFound, WrongIdentity
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.page import FailedPage
from pgkeep.postgres.relation import parse_relation_path
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import Backup, load_manifest
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow, Manifest
from pgkeep.repository.map import HOLE, MapBlock
from pgkeep.repository.map_table import page_table
from pgkeep.repository.pack import PackInfo
from pgkeep.seal.envelope import PREFIX_SIZE, damaged

_UNREADABLE = (DamagedObject, WrongIdentity, NoSuchBackup, ObjectNotFound)
_USUAL_SEGMENT_BYTES = 1 << 30
_REQUESTS = 8
PackKey = tuple[str, int]


class Run(NamedTuple):
    """``pages`` pages of a frame, from its page ``inside`` on, are blocks from ``block`` on of the
    relation to which the file at ``path`` belongs; there the first has number ``first``."""

    inside: int
    pages: int
    block: int
    first: int
    path: str


class PagePlaces:
    """Built once, then asked by many threads."""

    def __init__(self) -> None:
        self._packs: dict[PackKey, int] = {}
        self._paths: list[str] = []
        self._rows: Any = None
        self._new: list[Any] = []
        self._marked: set[tuple[PackKey, int, int]] = set()
        self._spans: dict[str, tuple[Lsn, Lsn]] = {}

    def runs(self, attempt: str, number: int, frame: int) -> list[Run]:
        """The runs of pages of a frame that belong to relations with checksums."""
        import numpy as np

        pack = self._packs.get((attempt, number))
        if pack is None or self._rows is None:
            return []
        place = pack << 32 | frame
        begin, end = np.searchsorted(self._rows[0], (place, place + 1))
        return [
            Run(inside, pages, block, first, self._paths[file])
            for _, inside, pages, block, first, file in self._rows[:, begin:end].T.tolist()
        ]

    def is_known(self, attempt: str, number: int, *, frame: int, page: int) -> bool:
        """Whether a map marks this page of a frame as one that failed when it was read."""
        return ((attempt, number), frame, page) in self._marked

    def is_healed(self, attempt: str, failed: FailedPage) -> bool:
        """Whether WAL of the backup that stored a page writes it anew."""
        span = self._spans.get(attempt)
        spans = [span] if span else list(self._spans.values())
        return any(start <= failed.lsn <= stop for start, stop in spans)

    # -- building -----------------------------------------------------------------------------

    def add_backup(self, backup: Backup) -> None:
        """A backup of a cluster with checksums."""
        self._spans[backup.head.attempt] = (backup.start_lsn, backup.stop_lsn)

    def add(self, found: _Block, relations: dict[str, int]) -> None:
        """The maps of a block; ``relations`` tells the first block of each file. Nothing of it
        unless all are sound: raises ``DamagedObject``."""
        import numpy as np

        block, slots = found.block, found.slots
        table = page_table(block, slots, name=found.name)
        packs = np.array(
            [self._packs.setdefault(pack, len(self._packs)) for pack in block.packs],
            dtype=np.int64,
        )
        base, file = np.zeros((2, len(block)), dtype=np.int64)
        for slot in slots:
            path = block.path(slot)
            base[slot], file[slot] = relations[path], len(self._paths)
            self._paths.append(path)
        place = packs[table.pack] << 32 | table.number if len(packs) else table.number
        rows = np.vstack(
            (
                place,
                table.inside,
                table.pages,
                base[table.slot] + table.first,
                table.first,
                file[table.slot],
            )
        )
        self._new.append(rows)
        for slot in slots:
            self._mark(block, slot)

    def _mark(self, block: MapBlock, slot: int) -> None:
        columns = block.columns()
        if columns.first_failed[slot] == columns.first_failed[slot + 1]:
            return
        one = block[slot]
        for page in one.failed:
            for extent in one.extents:
                if extent.frame != HOLE and extent.first <= page < extent.first + extent.pages:
                    frame = one.frames[extent.frame]
                    inside = extent.page_in_frame + page - extent.first
                    self._marked.add(((frame.attempt, frame.pack), frame.number, inside))

    def settle(self) -> None:
        """Bring what was added in order, each run of pages once: many maps name most of them."""
        import numpy as np

        if not self._new:
            return
        known = [] if self._rows is None else [self._rows]
        whole = np.hstack([*known, *self._new])
        self._new.clear()
        if not whole.size:
            return  # zeros have no row
        rows = whole[:, np.lexsort(whole[3::-1])]
        same = (rows[:4, 1:] == rows[:4, :-1]).all(axis=0)
        self._rows = rows[:, np.concatenate(([True], ~same))]


class _Block(NamedTuple):
    """A map block, and the slots of the maps that are wanted."""

    name: str
    block: MapBlock
    slots: list[int]


def read_page_places(
    repository: Repository, layout: Layout, backups: Sequence[Backup], *, progress: Progress
) -> PagePlaces:
    """Read the maps of all backups whose cluster had page checksums.

    What is damaged is left out: it is named where it is read as an object. Raises what the store
    raises.
    """
    progress.phase("reading the maps of backups")
    places = PagePlaces()
    seen: dict[tuple[PackKey, int], set[int]] = {}
    for backup in backups:
        if not backup.head.checksums:
            continue
        places.add_backup(backup)
        try:
            manifest = load_manifest(repository, layout, backup)
        except _UNREADABLE:
            continue
        try:
            _add_backup(repository, layout, manifest, places, seen)
        finally:
            manifest.close()
        places.settle()
    return places


def _add_backup(
    repository: Repository,
    layout: Layout,
    manifest: Manifest,
    places: PagePlaces,
    seen: dict[tuple[PackKey, int], set[int]],
) -> None:
    """What this backup has and none before it: an unchanged file's map is that of the parent."""
    packs = manifest.packs()
    relations = _relations(manifest)
    wanted = [row for row in manifest.files() if row.path in relations and row.map_pack in packs]
    wanted.sort(key=_block_of)

    def read(rows: list[FileRow]) -> _Block | None:
        try:
            return _read_block(repository, layout, packs[rows[0].map_pack], rows)
        except _UNREADABLE:
            return None

    fresh = (_fresh(list(group), packs, seen) for _, group in groupby(wanted, key=_block_of))
    groups = (rows for rows in fresh if rows)
    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="maps") as pool:
        while some := list(islice(groups, 2 * _REQUESTS)):
            for found in pool.map(read, some):
                if found is not None:
                    _add_if_sound(places, found, relations)


def _fresh(
    rows: list[FileRow],
    packs: Mapping[int, PackInfo],
    seen: dict[tuple[PackKey, int], set[int]],
) -> list[FileRow]:
    info = packs[rows[0].map_pack]
    known = seen.setdefault(((info.attempt, info.number), rows[0].map_frame), set())
    fresh = [row for row in rows if row.map_slot not in known]
    known.update(row.map_slot for row in fresh)
    return fresh


def _add_if_sound(places: PagePlaces, found: _Block, relations: dict[str, int]) -> None:
    with suppress(DamagedObject):  # its pack is named where it is opened
        places.add(found, relations)


def _relations(manifest: Manifest) -> dict[str, int]:
    """The files that consist of pages with checksums, and the block with which each begins."""
    server = manifest.facts().get("server")
    known = server.get("relation_segment_blocks") if isinstance(server, dict) else None
    blocks = known if isinstance(known, int) else _USUAL_SEGMENT_BYTES // manifest.head.page_size
    return dict(_first_blocks(manifest, blocks))


def _first_blocks(manifest: Manifest, blocks: int) -> Iterator[tuple[str, int]]:
    for row in manifest.files():
        relation = parse_relation_path(row.path) if row.size_bytes and not row.area else None
        if relation is not None:
            yield row.path, relation.first_block(blocks)


def _block_of(row: FileRow) -> tuple[int, int]:
    return row.map_pack, row.map_frame


def _read_block(
    repository: Repository, layout: Layout, info: PackInfo, rows: Sequence[FileRow]
) -> _Block:
    name, first = info.key(layout), rows[0]
    data = repository.store.get_range(name, first.map_offset, PREFIX_SIZE + first.map_stored)
    opener = info.opener(repository.keyring, layout)
    block = MapBlock(opener.open_at(data, 0, number=first.map_frame), name)
    for row in rows:
        if row.map_slot >= len(block) or block.path(row.map_slot) != row.path:
            raise damaged(name, f"slot {row.map_slot} of a map block is not the map of {row.path}")
    return _Block(name, block, [row.map_slot for row in rows])
