"""Packs and maps give back what was put in, whatever the shape of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, MapBlock, build_block
from pgkeep.repository.pack import PackWriter, read_index
from pgkeep.seal.keyring import HASH_DERIVED, HASH_EXPLICIT
from tests.repository.kit import LAYOUT, make_repository

_U32 = st.integers(0, 0xFFFFFFFF)
_ATTEMPT = st.binary(min_size=16, max_size=16).map(bytes.hex)
_FRAME = st.builds(FrameAddress, _ATTEMPT, _U32, _U32, _U32, _U32, _U32)
_EXTENT = st.builds(Extent, _U32, _U32, st.one_of(_U32, st.just(HOLE)), _U32)
_PATH = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
_MAP = st.builds(
    FileMap,
    _PATH,
    st.integers(0, (1 << 64) - 1),
    st.lists(_FRAME, max_size=5),
    st.lists(_EXTENT, max_size=5),
    st.lists(_U32, max_size=3),
)


@given(st.lists(_MAP, max_size=6))
def test_a_map_block_gives_back_its_maps(maps: list[FileMap]) -> None:
    block = MapBlock(build_block(maps, 8192), "block")
    assert [block[slot] for slot in range(len(block))] == maps


def test_paths_that_are_not_utf8_survive() -> None:
    path = os.fsdecode(b"base/5/\xff\xfe")
    assert MapBlock(build_block([FileMap(path, 0)], 8192), "b")[0].path == path


@given(st.lists(_MAP, min_size=1, max_size=3), st.data())
def test_a_cut_map_block_is_refused(maps: list[FileMap], data: st.DataObject) -> None:
    block = build_block(maps, 8192)
    with pytest.raises(DamagedObject):
        MapBlock(block[: data.draw(st.integers(0, len(block) - 1))], "block")


@pytest.mark.parametrize("sealed", [True, False])
def test_a_pack_opens_frame_by_frame_from_what_a_manifest_says(
    tmp_path: Path, sealed: bool
) -> None:
    repository, _ = make_repository(tmp_path, sealed=sealed)
    key = repository.keyring.page_hash_key()
    writer = PackWriter(repository.keyring, "ab" * 16, 3, page_size=8192, hash_key=key)
    plains = [os.urandom(8192 * pages) for pages in (1, 5, 2)]
    hashes = [os.urandom(8 * pages) for pages in (1, 5, 2)]
    frames = [writer.add_data(p, h) for p, h in zip(plains, hashes, strict=True)]
    block = writer.add_map_block(b"a block of maps")
    info, view = writer.finish()
    data = bytes(view)

    opener = info.opener(repository.keyring, LAYOUT)
    for frame, plain in zip(frames, plains, strict=True):
        piece = data[frame.offset : frame.offset + 8 + frame.stored]
        assert opener.open_at(piece, 0, number=frame.number) == plain
    assert opener.open_at(data, block.offset, number=block.number) == b"a block of maps"

    index = read_index(data, repository.keyring, info, LAYOUT)
    assert list(index.offsets) == [frame.offset for frame in (*frames, block)]
    assert list(index.pages) == [1, 5, 2, 0]
    assert index.hashes == b"".join(hashes)
    assert index.hash_kind == HASH_DERIVED
    assert info.size_bytes == len(data)


def test_a_buffer_that_is_used_again_leaks_nothing_into_the_next_pack(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    buffer = bytearray(b"\xaa" * 100_000)
    packs = []
    for number in (1, 2):
        writer = PackWriter(repository.keyring, "ab" * 16, number, page_size=8192, buffer=buffer)
        writer.add_data(bytes([number]) * 8192, bytes(8))
        info, view = writer.finish()
        packs.append(bytes(view))
        view.release()
        read_index(packs[-1], repository.keyring, info, LAYOUT)
    assert len(packs[0]) == len(packs[1])


def test_a_host_without_the_metadata_secret_puts_its_hash_key_into_the_index(
    tmp_path: Path,
) -> None:
    """Format, section 5: such a key is random, and only the metadata secret reads it."""
    from pgkeep.repository.identity import make_keyring

    repository, _ = make_repository(tmp_path, sealed=True)
    blind = make_keyring(repository.identity)
    key = blind.page_hash_key()
    assert key.kind == HASH_EXPLICIT
    assert key.key != blind.page_hash_key().key
    writer = PackWriter(blind, "ab" * 16, 1, page_size=8192, hash_key=key)
    writer.add_data(b"x" * 8192, bytes(8))
    info, view = writer.finish()
    assert read_index(bytes(view), repository.keyring, info, LAYOUT).hash_shown == key.key
