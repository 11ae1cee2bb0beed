"""What a backup compares with: the last backup, and what an interrupted run got done since.

Change is judged by the content of pages, so any backup of the same system will do, whatever its
timeline, and an unfinished one as well: its partial manifest names files that were read to
their end. For a file that both have, the partial manifest counts; it is newer.

The hashes of a parent lie in this host's cache, or are read again from the indexes of its packs.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from pgkeep.backup.hash_cache import HashReader
from pgkeep.backup.parent_maps import FileUsage, ParentMaps
from pgkeep.backup.parent_maps import MapPlace as MapPlace
from pgkeep.backup.retiring import packs_to_retire
from pgkeep.backup.skipping import Skipping
from pgkeep.backup.source import SourceFile
from pgkeep.postgres.page import HASH_SIZE
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import FileRow, Manifest
from pgkeep.repository.map_rows import MapRows, PackKey
from pgkeep.repository.pack import PackInfo


class Ancestor(NamedTuple):
    """A file as a parent has it.

    Unread, it is what it was; then ``rows`` are there only if its map has to move. ``forced`` is a
    mask of pages to store again, or None.
    """

    place: MapPlace
    hashes: bytes
    is_unread: bool
    is_moving: bool
    map: MapRows | None
    forced: Any = None

    @property
    def rows(self) -> MapRows:
        assert self.map is not None
        return self.map


class Unread(NamedTuple):
    """A file that is what it was: its map, and who knows its hashes."""

    file: SourceFile
    place: MapPlace
    hashes: HashReader


@dataclass
class Parent:
    """One manifest to compare with."""

    manifest: Manifest
    maps: ParentMaps
    packs: dict[PackKey, PackInfo]
    hashes: HashReader
    skipping: Skipping
    files: dict[str, FileRow] = field(default_factory=dict)


@dataclass
class Parents:
    """The parents of one backup, newest first. Use it in a ``with``.

    ``base`` is the head of the backup among them, if any. ``since_whole_read`` counts the backups
    since one read every file. ``damaged`` are packs that verify found bad: their pages are stored
    again.
    """

    parents: list[Parent]
    base: str | None
    page_size: int
    since_whole_read: int = 0
    usage: dict[str, FileUsage] = field(default_factory=dict)
    retiring: frozenset[PackKey] = frozenset()
    damaged: frozenset[PackKey] = frozenset()
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.close()

    def survey(self) -> None:
        """See which packs each file needs, and which of them this backup does without.

        Reads all maps. Raises ``DamagedObject``, and what the store raises.
        """
        for at, parent in enumerate(self.parents):
            newer = self.parents[:at]
            rows = (
                row
                for row in parent.files.values()
                if not any(row.path in other.files for other in newer)
            )
            self.usage.update((used.path, used) for used in parent.maps.usage(rows))
        named: dict[PackKey, int] = {}
        for used in self.usage.values():
            for pack, size in (*used.stored.items(), (used.map_pack, used.map_bytes)):
                named[pack] = named.get(pack, 0) + size
        sizes = {key: info.size_bytes for p in self.parents for key, info in p.packs.items()}
        self.retiring = packs_to_retire(named, sizes) | self.damaged

    def knows(self, file: SourceFile) -> bool:
        """Whether there is something to compare a file with."""
        return any(file.path in parent.files for parent in self.parents)

    def find(self, file: SourceFile) -> Ancestor | None:
        """The file as the newest parent has it; None when nothing is known of it.

        Raises ``DamagedObject``, and what the store raises.
        """
        for parent in self.parents:
            row = parent.files.get(file.path)
            if row is not None:
                return self._ancestor(parent, file, row)
        return None

    def divide(self, files: Iterable[SourceFile]) -> tuple[list[Unread], list[SourceFile]]:
        """The files that need not be looked at, and the others, both in their order."""
        unread: list[Unread] = []
        others: list[SourceFile] = []
        for file in files:
            found = self._unread(file)
            if found is None:
                others.append(file)
            else:
                unread.append(found)
        return unread, others

    def pack_infos(self, packs: Iterable[PackKey]) -> list[PackInfo]:
        """What manifests say of these packs, those of them that a parent names."""
        return [
            infos[0]
            for pack in packs
            if (infos := [one.packs[pack] for one in self.parents if pack in one.packs])
        ]

    def pack_keys(self, layout: Layout) -> set[str]:
        """The keys of all packs that the parents name."""
        return {info.key(layout) for parent in self.parents for info in parent.packs.values()}

    def _unread(self, file: SourceFile) -> Unread | None:
        for parent in self.parents:
            row = parent.files.get(file.path)
            if row is not None:
                break
        else:
            return None
        if not parent.skipping.allows(file, row) or not parent.hashes.knows(file.path):
            return None
        used = self.usage[file.path]
        if self.retiring and not self.retiring.isdisjoint(used.packs):
            return None
        return Unread(file, parent.maps.place(row), parent.hashes)

    def _ancestor(self, parent: Parent, file: SourceFile, row: FileRow) -> Ancestor | None:
        hashes = parent.hashes.get(row.path)
        if hashes is None or row.area != file.area:
            return None
        place = parent.maps.place(row)
        hollow = self.usage[row.path].stored.keys() & self.retiring
        is_moving = place.pack in self.retiring
        if not hollow and parent.skipping.allows(file, row):
            rows = parent.maps.rows(row) if is_moving else None
            return Ancestor(place, hashes, True, is_moving, rows)
        rows = parent.maps.rows(row)
        pages = -(-rows.size_bytes // self.page_size)
        forced = rows.pages_in(self.retiring, pages) if hollow else None
        return Ancestor(place, hashes[: pages * HASH_SIZE], False, is_moving, rows, forced)
