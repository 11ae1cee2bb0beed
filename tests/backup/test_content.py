"""What was copied comes back byte for byte, whatever its size, shape or name."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from pgkeep.backup import copy, packing
from tests.backup.format_reader import HOLE
from tests.backup.scratch import PAGE, RUN, Hook, Scratch

SIZES = (0, 1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, RUN - 1, RUN, RUN + 1, 3 * RUN + 4097)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_files_of_every_size_come_back(tmp_path: Path, sealed: bool) -> None:
    scratch = Scratch(tmp_path, sealed=sealed)
    contents = {f"dir/file-{size}": os.urandom(size) for size in SIZES}
    for name, content in contents.items():
        scratch.write(name, content)
    backup = scratch.copy()
    assert {name: backup.content(name) for name in backup.files} == contents
    backup.check_everything()


def test_odd_names_come_back(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    names = [b"a b", b"back\\slash", b"\\x41", b"caf\xc3\xa9", b"latin-\xe9-1", b"new\nline"]
    for name in names:
        scratch.write(os.fsdecode(b"folder/" + name), name)
    backup = scratch.copy()
    found = {os.fsencode(path): backup.content(path) for path in backup.files}
    assert found == {b"folder/" + name: name for name in names}


def test_holes_come_back_and_take_no_room(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    page = os.urandom(PAGE)
    shapes = {
        "all-zero": bytes(5 * RUN),
        "one-zero-page": bytes(PAGE),
        "short-zero-end": page + bytes(100),
        "hole-in-the-middle": page + bytes(3 * RUN) + page,
        "hole-at-both-ends": bytes(40 * PAGE) + page + bytes(40 * PAGE + 5),
        "few-zero-pages": page + bytes(8 * PAGE) + page,
        "many-holes": (page + bytes(20 * PAGE)) * 30,
    }
    for name, content in shapes.items():
        scratch.write(name, content)
    backup = scratch.copy()
    assert {name: backup.content(name) for name in backup.files} == shapes
    assert [extent[2] for extent in backup.files["all-zero"].extents] == [HOLE] * 5
    assert not backup.files["all-zero"].frames
    assert len(backup.files["few-zero-pages"].extents) == 1
    assert backup.files["many-holes"].frames
    backup.check_everything()


def test_a_file_larger_than_a_stretch_comes_back(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, jobs=3)
    size = 2 * copy.STRETCH_BYTES + 5 * RUN + 777
    content = bytearray(size)
    for at in (0, copy.STRETCH_BYTES - 3 * PAGE, 2 * copy.STRETCH_BYTES - 5, size - 20000):
        content[at : at + 20000] = os.urandom(20000)[: size - at]
    scratch.write("large", bytes(content))
    backup = scratch.copy()
    assert backup.content("large") == content


def test_a_large_file_is_read_by_several_workers_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "STRETCH_BYTES", RUN)
    content = os.urandom(9 * RUN + 5)
    both = threading.Barrier(2, timeout=60)
    readers: set[int] = set()

    def meet(number: int) -> None:
        if number <= 2:
            both.wait()
        readers.add(threading.get_ident())

    scratch = Scratch(tmp_path, listener=Hook(meet))
    scratch.write("large", content)
    backup = scratch.copy()
    assert len(readers) == 2
    assert backup.content("large") == content


def test_thousands_of_files_have_their_maps(tmp_path: Path) -> None:
    chance = random.Random(1)
    scratch = Scratch(tmp_path)
    contents = {f"d{n % 7}/f{n}": chance.randbytes(n % 300) for n in range(1500)}
    for name, content in contents.items():
        scratch.write(name, content)
    backup = scratch.copy()
    assert {name: backup.content(name) for name in backup.files} == contents
    blocks = {(file.row["map_pack"], file.row["map_frame"]) for file in backup.files.values()}
    assert len(blocks) > 4


def test_a_pack_is_closed_before_its_hashes_outgrow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_INDEX_BYTES", 2 * 8 * RUN // PAGE)
    content = (b"much the same everywhere " * (8 * RUN // 25))[: 8 * RUN]
    scratch = Scratch(tmp_path, jobs=1)
    scratch.write("compressible", content)
    backup = scratch.copy()
    assert backup.content("compressible") == content
    assert len([*backup.packs()]) == 5  # four of two runs each, and the maps
