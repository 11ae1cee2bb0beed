"""What lands is what was stored, byte for byte, however many backups it was stored in."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, LocalIOError
from pgkeep.repository.map import HOLE, Extent, FileMap
from pgkeep.restore import assembling, holding, units
from pgkeep.restore import landing as landing_module
from pgkeep.restore.assembling import Assembler, Piece
from pgkeep.restore.fetching import FrameSource, Packs
from pgkeep.restore.units import Unit, tasks_of
from pgkeep.storage.direct import BLOCK_BYTES, write_at
from pgkeep.storage.interface import Buffer, Store
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import LAYOUT
from tests.restore.layers import Landing, Layers, ModelFile, random_layers

PAGE = 1024
REGION = 256 << 10


class CountingStore(MemoryStore):
    """Knows what was read: the requests, and how often each range behind the header."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, list[tuple[int, int]]]] = []

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        self.requests.append((key, [one for one in ranges if one[0]]))
        return super().get_ranges(key, ranges)

    def twice(self) -> list[Any]:
        """Ranges that were read more than once."""
        counts = Counter((key, at) for key, ranges in self.requests for at in ranges)
        return [read for read, count in counts.items() if count > 1]


@pytest.fixture
def small() -> Iterator[None]:
    """Regions and cuts of a size at which small files have many of them."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield


def shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(assembling, "REGION_BYTES", REGION)
    patch.setattr(assembling, "HOLE_BYTES", 16 << 10)
    patch.setattr(units, "SMALL_BYTES", 128 << 10)
    patch.setattr(units, "BUNDLE_BYTES", 300 << 10)
    patch.setattr(units, "CUT_BYTES", 2 * REGION)


def assert_landed(landing: Landing, files: dict[str, ModelFile], checksums: dict[str, int]) -> None:
    for path, file in files.items():
        found = (landing.into / path).read_bytes()
        assert found == bytes(file.content), path
        assert checksums[path] == google_crc32c.value(found), path
    assert landing.advanced == sum(len(file.content) for file in files.values())


SIZES = st.lists(
    st.one_of(
        st.sampled_from([0, 1, PAGE, PAGE + 1, REGION - 1, REGION, REGION + 1, 8 * REGION]),
        st.integers(0, 6 * REGION),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 1 << 32), st.booleans(), st.sampled_from([0, 300 << 10, 48 << 20]))
def test_whatever_was_changed_in_whatever_layer_comes_back(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int, sealed: bool, held: int
) -> None:
    chance, folder = random.Random(seed), tmp_path_factory.mktemp("layers")
    layers = Layers(folder, sealed=sealed, page_size=PAGE, pack_frames=chance.choice([1, 7, 40]))
    random_layers(layers, chance, sizes=sizes)
    maps = [file.map(keep_dead=chance.random() < 0.5) for file in layers.files.values()]
    landing = Landing(layers.repository, layers.manifest(maps, block_maps=2), folder / "into")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(holding, "HELD_BYTES", held)
        assert_landed(landing, layers.files, landing.run(jobs=chance.choice([1, 2])))


def layered(
    folder: Path, *, size: int, layers: int, store: Store | None = None, page_size: int = 8192
) -> tuple[Layers, ModelFile]:
    """A file of runs, and layers that each changed a fiftieth of its pages."""
    made = Layers(folder, page_size=page_size, store=store)
    return made, add_layered(made, "base/5/16384", size=size, layers=layers)


def add_layered(made: Layers, path: str, *, size: int, layers: int) -> ModelFile:
    chance = random.Random(path)
    file = made.file(path, size)
    made.full(file, chance)
    for _ in range(layers):
        made.next_backup()
        changed = sorted(chance.sample(range(file.pages), file.pages // 50))
        for page in changed:
            file.change(page, chance)
        made.store(file, changed)
    return file


def test_thirty_increments_are_read_once_and_written_in_large_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CountingStore()
    layers, _ = layered(tmp_path, size=(33 << 20) + 5000, layers=30, store=store)
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    store.requests.clear()
    writes: list[int] = []

    def noted(handle: int, data: memoryview, offset: int) -> None:
        writes.append(len(data))
        write_at(handle, data, offset)

    monkeypatch.setattr(landing_module, "write_at", noted)
    assert_landed(landing, layers.files, landing.run())
    assert writes == [4 << 20] * 8 + [(1 << 20) + 5000]
    assert store.twice() == []
    # A request for each region and pack: the runs of nine regions, one more where a pack ends, and
    # once each increment, whose pages are all over the file.
    assert len(store.requests) <= 9 + 1 + 30
    assert landing.lander.written_bytes == (33 << 20) + 5000


def test_frames_for_which_there_is_no_room_are_read_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CountingStore()
    layers, _ = layered(tmp_path, size=4 * REGION, layers=5, store=store, page_size=PAGE)
    monkeypatch.setattr(holding, "HELD_BYTES", 0)
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    assert_landed(landing, layers.files, landing.run())
    assert store.twice()


def test_a_bundle_of_small_files_is_one_request_a_pack(tmp_path: Path) -> None:
    store = CountingStore()
    layers, chance = Layers(tmp_path, store=store, pack_frames=1000), random.Random(1)
    for number in range(250):
        layers.full(layers.file(f"base/{number}", 8192 * chance.randrange(4)), chance)
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    store.requests.clear()
    assert_landed(landing, layers.files, landing.run())
    assert len(store.requests) == 1


def test_holes_stay_holes(tmp_path: Path) -> None:
    layers, chance = Layers(tmp_path), random.Random(1)
    file = layers.file("base/1", (40 << 20) + 100)
    for page in (0, 1, 2000, 2001):
        file.change(page, chance)
        layers.store(file, [page])
    layers.file("base/2", 100 << 20)
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    checksums = landing.run()
    assert (tmp_path / "into/base/1").read_bytes() == bytes(file.content)
    assert (tmp_path / "into/base/1").stat().st_blocks * 512 <= 64 << 10
    assert (tmp_path / "into/base/2").stat().st_blocks == 0
    assert checksums["base/1"] == google_crc32c.value(bytes(file.content))
    assert landing.lander.written_bytes == 4 * 8192


def test_the_order_of_frames_is_not_trusted(tmp_path: Path, small: None) -> None:
    """A map that says the newest is the oldest still says where each page is."""
    chance = random.Random(7)
    layers = Layers(tmp_path, page_size=PAGE)
    random_layers(layers, chance, sizes=[3 * REGION, 50_000])
    maps = []
    for file in layers.files.values():
        for _ in range(3):
            start = chance.randrange(max(1, file.pages - 100))
            pages = range(start, min(start + 100, file.pages))
            layers.store(file, pages)
        one = file.map(keep_dead=True)
        order = chance.sample(range(len(one.frames)), len(one.frames))
        at = {frame: place for place, frame in enumerate(order)} | {HOLE: HOLE}
        one.frames = [one.frames[frame] for frame in order]
        one.extents = [extent._replace(frame=at[extent.frame]) for extent in one.extents]
        maps.append(one)
    landing = Landing(layers.repository, layers.manifest(maps), tmp_path / "into")
    assert_landed(landing, layers.files, landing.run())


def test_a_file_in_parts_is_made_once_and_checked_as_a_whole(tmp_path: Path, small: None) -> None:
    layers, _ = layered(tmp_path, size=20 * REGION + 77, layers=0, page_size=PAGE)
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    assert_landed(landing, layers.files, landing.run(jobs=2))


class Table:
    """An assembler by itself, and the tasks of a backup."""

    def __init__(self, layers: Layers, folder: Path) -> None:
        landing = Landing(layers.repository, layers.manifest(), folder / "into")
        packs = Packs(layers.repository, LAYOUT, workers=1)
        self._assembler = Assembler(FrameSource(packs), page_size=layers.page_size)
        pages = assembling.region_pages(layers.page_size)
        (found,) = landing.maps.blocks()
        self.tasks = list(tasks_of(found, region_pages=pages))
        self.pieces: list[Piece] = []

    def make(self, unit: Unit, ahead: Sequence[Unit] = ()) -> bytes:
        """The bytes of a unit of one part."""
        (part,) = unit.parts
        result = bytearray()
        self._assembler.begin(unit, ahead)
        for piece in self._assembler.pieces(part):
            assert piece.offset == part.start * PAGE + len(result)
            result += bytes(piece.length) if piece.data is None else piece.data
            self.pieces.append(piece)
        return bytes(result)


def test_who_goes_on_with_the_next_part_reads_nothing_twice(tmp_path: Path, small: None) -> None:
    """Increments reach across the cuts; what is held of them stays."""
    store = CountingStore()
    layers, file = layered(tmp_path, size=40 * REGION, layers=2, store=store, page_size=PAGE)
    table = Table(layers, tmp_path)
    (task,) = table.tasks
    assert len(task) > 2
    assert b"".join(map(table.make, task)) == file.content
    assert store.twice() == []


def test_the_parts_of_a_file_are_fetched_together(tmp_path: Path, small: None) -> None:
    """Of a file of many parts there are no more requests than its packs and portions need."""

    def requests(name: str, *, looking_ahead: bool) -> tuple[int, int]:
        store = CountingStore()
        layers, file = layered(
            tmp_path / name, size=40 * REGION, layers=2, store=store, page_size=PAGE
        )
        table = Table(layers, tmp_path / name)
        (task,) = table.tasks
        store.requests.clear()
        rest = [task[number + 1 :] if looking_ahead else [] for number in range(len(task))]
        assert b"".join(map(table.make, task, rest)) == file.content
        assert store.twice() == []
        return len(store.requests), len({key for key, _ in store.requests})

    together, packs = requests("together", looking_ahead=True)
    # A portion is far more than all that the file has; its first one is smaller.
    assert packs <= together <= 2 * packs
    assert requests("apart", looking_ahead=False)[0] > together


def test_who_has_nothing_to_do_takes_the_second_half() -> None:
    first, second = ([_unit(number) for number in range(count)] for count in (7, 2))
    shares = landing_module._Shares(iter([first, second]), 3)
    assert shares.next(0) is first[0]
    assert shares.next(1) is second[0]
    assert shares.next(2) is first[4]
    assert shares.rest(2) == first[5:]
    assert shares.rest(0) == first[1:4]
    assert [shares.next(1) for _ in range(2)] == [second[1], first[2]]
    taken = [shares.next(worker) for worker in (0, 1, 2, 2, 0)]
    assert taken == [first[1], first[3], first[5], first[6], None]


def _unit(number: int) -> Unit:
    return Unit(None, [number], False)  # type: ignore[arg-type, list-item]


def test_who_turns_to_another_file_holds_nothing_of_the_last(tmp_path: Path, small: None) -> None:
    layers, _ = layered(tmp_path, size=40 * REGION, layers=2, page_size=PAGE)
    add_layered(layers, "base/5/2", size=30 * REGION, layers=3)
    table = Table(layers, tmp_path)
    found = [b"", b""]
    for both in zip_longest(*table.tasks):
        for number, unit in enumerate(both):
            found[number] += table.make(unit) if unit else b""
    assert found == [bytes(file.content) for file in layers.files.values()]


def test_holes_leave_whole_blocks_to_be_written(tmp_path: Path, small: None) -> None:
    """Pages may be smaller than the blocks of a direct write."""
    layers, chance = Layers(tmp_path, page_size=PAGE), random.Random(6)
    file = layers.file("base/1", 400 * PAGE)
    for pages in (range(3, 50), range(90, 95), range(301, 302)):
        for page in pages:
            file.change(page, chance)
        layers.store(file, pages)
    table = Table(layers, tmp_path)
    ((unit,),) = table.tasks
    assert table.make(unit) == file.content
    written = [piece for piece in table.pieces if piece.data is not None]
    assert len(written) == 3
    for piece in written:
        assert (piece.offset % BLOCK_BYTES, piece.length % BLOCK_BYTES) == (0, 0)


def test_a_file_that_is_there_is_not_touched(tmp_path: Path, small: None) -> None:
    for size in (10, 20 * REGION):
        layers, file = layered(tmp_path / str(size), size=size, layers=0, page_size=PAGE)
        landing = Landing(layers.repository, layers.manifest(), tmp_path / str(size) / "into")
        (landing.into / file.path).write_bytes(b"precious")
        with pytest.raises(LocalIOError):
            landing.run(jobs=2)
        assert (landing.into / file.path).read_bytes() == b"precious"


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("scattered", [True, False])
def test_nothing_of_a_damaged_frame_is_written(
    tmp_path: Path, small: None, sealed: bool, scattered: bool
) -> None:
    store = MemoryStore()
    layers, chance = Layers(tmp_path, page_size=PAGE, sealed=sealed, store=store), random.Random(2)
    file = layers.file("base/1", 2 * REGION)
    layers.full(file, chance)
    pages = range(5, 105, 2 if scattered else 1)
    for page in pages:
        file.change(page, chance)
    layers.next_backup()
    layers.store(file, pages)
    address = file.frames[-1]
    manifest = layers.manifest()
    key = f"main/{manifest.head.system_identifier}/packs/{address.attempt}/{address.pack:08d}"
    content = bytearray(store.get(key))
    content[address.offset + 8 + address.stored // 2] ^= 1
    store.put(key, bytes(content))
    landing = Landing(layers.repository, manifest, tmp_path / "into")
    with pytest.raises(DamagedObject, match=address.attempt):
        landing.run()
    assert not any((tmp_path / "into/base/1").read_bytes()[:REGION])


def test_a_pack_that_is_cut_off_is_damage(tmp_path: Path, small: None) -> None:
    store = MemoryStore()
    layers, file = layered(tmp_path, size=REGION, layers=0, store=store, page_size=PAGE)
    manifest = layers.manifest()
    key = next(info.key for info in store.list("main/") if "/packs/" in info.key)
    store.put(key, store.get(key)[: file.frames[0].stored // 2])
    with pytest.raises(DamagedObject, match="ends before"):
        Landing(layers.repository, manifest, tmp_path / "into").run()


def lying(layers: Layers, what: str) -> FileMap:
    """The map of a file of two frames, made wrong."""
    file = layers.file("base/lie", 200 * PAGE)
    layers.full(file, random.Random(3))
    one = file.map()
    last = one.extents[-1]
    if what == "beyond its frame":
        one.extents[-1] = last._replace(page_in_frame=last.page_in_frame + 1)
    elif what == "beyond the file":
        one.extents[-1] = last._replace(pages=last.pages + 1)
    elif what == "overlapping":
        one.extents.insert(1, Extent(0, one.extents[0].pages, 0, 0))
    elif what == "another length":
        one.frames[0] = one.frames[0]._replace(plain=one.frames[0].plain + PAGE)
    elif what == "impossible size":
        one.frames[0] = one.frames[0]._replace(plain=0xFFFFFFFF)
    elif what == "impossible stored size":
        one.frames[0] = one.frames[0]._replace(stored=0xFFFFFFFF)
    elif what == "unknown pack":
        one.frames[0] = one.frames[0]._replace(pack=77)
    elif what == "another frame":
        one.frames[0] = one.frames[0]._replace(number=one.frames[0].number + 1)
    return one


@pytest.mark.parametrize(
    "what",
    [
        "beyond its frame",
        "beyond the file",
        "overlapping",
        "another length",
        "impossible size",
        "impossible stored size",
        "unknown pack",
        "another frame",
    ],
)
def test_a_map_that_lies_is_refused(tmp_path: Path, what: str) -> None:
    layers = Layers(tmp_path, page_size=PAGE, sealed=True)
    landing = Landing(layers.repository, layers.manifest([lying(layers, what)]), tmp_path / "into")
    with pytest.raises(DamagedObject):
        landing.run()
    landed = tmp_path / "into/base/lie"
    assert not landed.exists() or not any(landed.read_bytes())


def test_a_row_that_is_not_its_maps_is_refused(tmp_path: Path) -> None:
    layers = Layers(tmp_path, page_size=PAGE)
    for path in ("base/1", "base/2"):
        layers.full(layers.file(path, PAGE), random.Random(4))
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    for wrong in ({"path": "base/3"}, {"size_bytes": 5}, {"map_slot": 2}, {"map_pack": 99}):
        row = landing.files[1]
        landing.files[1] = row._replace(**wrong)
        with pytest.raises(DamagedObject):
            list(landing.maps.blocks())
        landing.files[1] = row


def test_the_first_error_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many files the first cannot be made; most of the others are not begun."""
    layers, chance = Layers(tmp_path), random.Random(5)
    for number in range(40):
        layers.full(layers.file(f"base/{number}", 1 << 20), chance)
    landing = Landing(layers.repository, layers.manifest(block_maps=1), tmp_path / "into")
    os.mkfifo(tmp_path / "into/base/0")
    with pytest.raises(LocalIOError):
        landing.run()
    assert len(list((tmp_path / "into/base").iterdir())) < 20


def test_a_gigabyte_takes_few_requests(tmp_path: Path) -> None:
    """Fewer than forty, where a request may carry 16 MiB; here a sixteenth of it, of noise."""
    store = CountingStore()
    store.request_bytes = 16 << 20
    layers, chance = Layers(tmp_path, page_size=8192, store=store), random.Random(11)
    file = layers.file("base/1", 64 << 20)
    file.content[:] = chance.randbytes(len(file.content))
    layers.store(file, range(file.pages))
    landing = Landing(layers.repository, layers.manifest(), tmp_path / "into")
    assert_landed(landing, layers.files, landing.run(jobs=2))
    data = [ranges for key, ranges in store.requests if "/packs/" in key]
    assert sum(length for ranges in data for _, length in ranges) >= 64 << 20
    assert all(sum(length for _, length in ranges) <= store.request_bytes for ranges in data)
    assert len(data) <= 2 * 4  # twice what 16 MiB each would be, since parts of a file end early
