"""Maps are read a few at a time, and only those that are needed."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from pgkeep.errors import LocalIOError
from pgkeep.restore import destination
from pgkeep.restore import maps as maps_module
from pgkeep.storage.memory import MemoryStore
from tests.restore.layers import Landing, Layers

PAGE = 1024
FILES = 40


class CountingStore(MemoryStore):
    """Knows how many ranges behind headers were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self._counting = threading.Lock()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._counting:
            self.reads += start > 0  # without headers, of which each pack has one
        return super().get_range(key, start, length)


def backed_up(folder: Path) -> tuple[CountingStore, Layers, Landing]:
    """Forty files, the map of each in a block of its own; two of them had damaged pages."""
    store, chance = CountingStore(), random.Random(1)
    layers = Layers(folder, page_size=PAGE, store=store)
    for number in range(FILES):
        layers.full(layers.file(f"base/{number}", 5 * PAGE), chance)
    layers.files["base/7"].failed = [1, 3]
    layers.files["base/30"].failed = [0]
    layers.file("base/hole", 50 * PAGE + 1)
    landing = Landing(layers.repository, layers.manifest(block_maps=1), folder / "into")
    store.reads = 0
    return store, layers, landing


def test_what_lies_ahead_is_read_a_few_blocks_at_a_time(tmp_path: Path) -> None:
    store, _, landing = backed_up(tmp_path)
    blocks = landing.maps.blocks()
    seen = 0
    for found in blocks:
        seen += len(found.files)
        assert store.reads <= seen + maps_module._REQUESTS + 1
        if seen == 20:
            break
    blocks.close()
    assert store.reads <= seen + maps_module._REQUESTS + 1
    assert [len(found.files) for found in landing.maps.blocks()] == [1] * (FILES + 1)


def test_large_blocks_are_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, landing = backed_up(tmp_path)
    monkeypatch.setattr(maps_module, "_AHEAD_BYTES", 1)
    for seen, _ in enumerate(landing.maps.blocks(), 1):
        assert store.reads <= seen + 1


def test_damaged_pages_are_known_from_the_maps_of_their_files_alone(tmp_path: Path) -> None:
    store, _, landing = backed_up(tmp_path)
    assert landing.maps.failed_pages() == [("base/7", 1), ("base/7", 3), ("base/30", 0)]
    assert store.reads == 2


def test_holes_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, landing = backed_up(tmp_path)
    maps, data = landing.maps, FILES * 5 * PAGE
    most = sum(file.size_bytes for file in landing.files)
    assert maps.data_bytes() == data < most
    monkeypatch.setattr(destination, "free_bytes", lambda path: data)
    destination.check_free(tmp_path, most, exactly=maps.data_bytes)
    with pytest.raises(LocalIOError, match="not enough room"):
        destination.check_free(tmp_path, most, exactly=lambda: data + 1)
    monkeypatch.setattr(destination, "free_bytes", lambda path: most)
    store.reads = 0
    destination.check_free(tmp_path, most, exactly=maps.data_bytes)
    assert store.reads == 0
