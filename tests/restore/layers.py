"""Backups in layers that nobody made: files, maps and packs as increments leave them.

A model of each file says what its bytes are, and for each page which frame has it now. Frames are
stored as a backup would: runs of neighbouring pages first, then, layer after layer, pages that
changed, scattered over the file, some of them in runs that overlap older frames.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from pgkeep.repository.identity import Repository
from pgkeep.repository.manifest import (
    DATA_DIRECTORY,
    FileRow,
    Manifest,
    ManifestBuilder,
    parse_manifest,
)
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, build_block
from pgkeep.repository.pack import PackWriter
from pgkeep.restore.landing import Lander
from pgkeep.restore.maps import MapReader
from pgkeep.storage.interface import Store
from tests.repository.kit import HEAD, LAYOUT, make_repository

RUN_PAGES = 128


@dataclass
class ModelFile:
    """A file as it is now, and for each page (frame, page in it); the frame is HOLE for zeros."""

    path: str
    page_size: int
    content: bytearray = field(default_factory=bytearray)
    frames: list[FrameAddress] = field(default_factory=list)
    owner: list[tuple[int, int]] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return -(-len(self.content) // self.page_size)

    def resize(self, size: int) -> None:
        """Cut off or extend by zeros. Pages that are not whole any more lose their frame."""
        whole = min(size, len(self.content)) // self.page_size
        self.content = self.content[:size] + bytes(max(0, size - len(self.content)))
        # What is left of a page that was cut is stored anew by whoever stores pages.
        del self.owner[whole:]
        self.content[whole * self.page_size :] = bytes(size - whole * self.page_size)
        self.owner += [(HOLE, 0)] * (self.pages - whole)

    def page(self, number: int) -> bytes:
        return bytes(self.content[number * self.page_size : (number + 1) * self.page_size])

    def change(self, number: int, chance: random.Random) -> None:
        start, length = number * self.page_size, len(self.page(number))
        self.content[start : start + length] = (chance.randbytes(8) * (length // 8 + 1))[:length]

    def extents(self) -> list[Extent]:
        found: list[Extent] = []
        for page, (frame, inside) in enumerate(self.owner):
            last = found[-1] if found else None
            if (last and last.frame == frame and frame == HOLE) or (
                last and last.frame == frame and last.page_in_frame + last.pages == inside
            ):
                found[-1] = last._replace(pages=last.pages + 1)
            else:
                found.append(Extent(page, 1, frame, inside))
        return found

    def map(self, *, keep_dead: bool = False) -> FileMap:
        """The map; frames that no page needs are left out of it."""
        extents = self.extents()
        live = sorted({extent.frame for extent in extents} - {HOLE})
        if keep_dead:
            live = list(range(len(self.frames)))
        number = {frame: place for place, frame in enumerate(live)} | {HOLE: HOLE}
        return FileMap(
            self.path,
            len(self.content),
            [self.frames[frame] for frame in live],
            [extent._replace(frame=number[extent.frame]) for extent in extents],
            self.failed,
        )


class Layers:
    """A repository, and backups into it. ``pack_frames`` is how many frames go into one pack."""

    def __init__(
        self,
        folder: Path,
        *,
        sealed: bool = False,
        page_size: int = 8192,
        pack_frames: int = 32,
        store: Store | None = None,
    ) -> None:
        self.repository: Repository
        self.repository, _ = make_repository(folder, sealed=sealed, store=store)
        self.page_size = page_size
        self.files: dict[str, ModelFile] = {}
        self._pack_frames = pack_frames
        self._builder = ManifestBuilder()
        self._writer: PackWriter | None = None
        self._packs = 0
        self._attempt = 0

    def file(self, path: str, size: int) -> ModelFile:
        """A new file of zeros."""
        self.files[path] = ModelFile(path, self.page_size)
        self.files[path].resize(size)
        return self.files[path]

    def full(self, file: ModelFile, chance: random.Random, *, holes: bool = False) -> None:
        """Fill a file, and store it in runs of neighbouring pages; some of them may stay zeros."""
        start = 0
        while start < file.pages:
            length = min(chance.choice((RUN_PAGES, RUN_PAGES, 1, 50)), file.pages - start)
            if not holes or chance.random() < 0.6:
                pages = range(start, start + length)
                for page in pages:
                    file.change(page, chance)
                self.store(file, pages)
            start += length

    def store(self, file: ModelFile, pages: Sequence[int]) -> None:
        """Put pages, ascending, into frames of at most 128."""
        for start in range(0, len(pages), RUN_PAGES):
            some = pages[start : start + RUN_PAGES]
            address = self.add_frame(b"".join(map(file.page, some)))
            for inside, page in enumerate(some):
                file.owner[page] = (len(file.frames), inside)
            file.frames.append(address)

    def add_frame(self, plain: bytes) -> FrameAddress:
        if self._writer is None:
            self._packs += 1
            attempt = f"{self._attempt:032x}"
            keyring = self.repository.keyring
            self._writer = PackWriter(keyring, attempt, self._packs, page_size=self.page_size)
        writer = self._writer
        hashes = bytes(8 * -(-len(plain) // self.page_size))
        address = FrameAddress(writer.attempt, writer.number, *writer.add_data(plain, hashes))
        if writer.frames >= self._pack_frames:
            self.end_pack()
        return address

    def end_pack(self) -> None:
        if self._writer is not None:
            info, data = self._writer.finish()
            self.repository.store.put(info.key(LAYOUT), bytes(data))
            self._builder.add_pack(info)
            self._writer = None

    def next_backup(self) -> None:
        """What is stored from now on is in packs of another run."""
        self.end_pack()
        self._attempt, self._packs = self._attempt + 1, 0

    def manifest(self, maps: Iterable[FileMap] | None = None, *, block_maps: int = 256) -> Manifest:
        """Store the maps (those of all files), and the manifest that names them."""
        maps = [file.map() for file in self.files.values()] if maps is None else list(maps)
        self.next_backup()
        for start in range(0, len(maps), block_maps):
            self._store_block(maps[start : start + block_maps])
        self.end_pack()
        files, size, failed = self._builder.totals()
        head = replace(
            HEAD,
            files=files,
            database_bytes=size,
            failed_pages=failed,
            page_size=self.page_size,
        )
        key = LAYOUT.manifest(head.backup)
        data = bytes(self._builder.build(self.repository.keyring, head))
        self.repository.store.put(key, data)
        return parse_manifest(data, key, self.repository.keyring)

    def _store_block(self, maps: Sequence[FileMap]) -> None:
        keyring, number = self.repository.keyring, self._packs + 1
        self._packs = number
        writer = PackWriter(keyring, f"{self._attempt:032x}", number, page_size=self.page_size)
        at = writer.add_map_block(build_block(maps, self.page_size))
        pack = self._builder.pack_id(writer.attempt, number)
        self._builder.add_files(
            FileRow(
                *(one.path, DATA_DIRECTORY, one.size_bytes, 0o600, 0, 0, slot),
                *(pack, at.number, at.offset, at.stored, slot, len(one.failed)),
            )
            for slot, one in enumerate(maps)
        )
        self._writer = writer
        self.end_pack()


class Landing:
    """Lands the files of a manifest in a directory."""

    def __init__(self, repository: Repository, manifest: Manifest, into: Path) -> None:
        self.files = list(manifest.files())
        self.maps = MapReader(repository, LAYOUT, manifest, self.files)
        self.into, self.advanced = into, 0
        for file in self.files:
            (into / file.path).parent.mkdir(parents=True, exist_ok=True)
        self.lander = Lander(
            repository,
            LAYOUT,
            self.maps,
            place=lambda number: into / self.files[number].path,
            own=lambda handle: None,
            advance=self._advance,
        )

    def run(self, *, jobs: int = 1) -> dict[str, int]:
        """Land everything; returns checksums by path."""
        self.lander.land(jobs=jobs)
        paths = (file.path for file in self.files)
        return dict(zip(paths, self.lander.checksums, strict=True))

    def _advance(self, size_bytes: int) -> None:
        self.advanced += size_bytes


def random_layers(layers: Layers, chance: random.Random, *, sizes: Sequence[int]) -> None:
    """Files of these sizes, and a few layers of changes on top of them."""
    for number, size in enumerate(sizes):
        file = layers.file(f"base/{number}", size)
        layers.full(file, chance, holes=chance.random() < 0.5)
    for _ in range(chance.randrange(6)):
        layers.next_backup()
        for file in layers.files.values():
            _change(layers, file, chance)


def _change(layers: Layers, file: ModelFile, chance: random.Random) -> None:
    """One increment of a file: grown or shrunk, pages all over it, runs, and zeros."""
    if chance.random() < 0.2:
        file.resize(max(0, len(file.content) + chance.randrange(-300_000, 300_000)))
    if not file.pages:
        return
    changed = {chance.randrange(file.pages) for _ in range(chance.randrange(file.pages))}
    for _ in range(chance.randrange(3)):
        start = chance.randrange(file.pages)
        changed |= set(range(start, min(start + chance.randrange(200), file.pages)))
    for page in changed:
        file.change(page, chance)
    for run in _split(sorted(changed), chance):
        layers.store(file, run)
    for _ in range(chance.randrange(3)):
        page = chance.randrange(file.pages)
        for zero in range(page, min(page + chance.randrange(200), file.pages)):
            start = zero * file.page_size
            file.content[start : start + len(file.page(zero))] = bytes(len(file.page(zero)))
            file.owner[zero] = (HOLE, 0)


def _split(pages: list[int], chance: random.Random) -> Iterator[list[int]]:
    cuts = sorted({0, len(pages), *(chance.randrange(len(pages) + 1) for _ in range(3))})
    for start, end in pairwise(cuts):
        yield pages[start:end]
