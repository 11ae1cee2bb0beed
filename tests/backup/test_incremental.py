"""The second backup and every later one store changed pages only, and each restores by itself
(invariant 11)."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from pgkeep.backup import skipping
from tests.backup.chain import (
    RELATION,
    BrokenOff,
    Chain,
    change,
    restored,
    stored_by_last,
)
from tests.backup.scratch import PAGE, RUN, Hook
from tests.postgres.pages import sound_page
from tests.repository.kit import LAYOUT


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return Chain(tmp_path, sealed=request.param, checksums=False)


def test_what_did_not_change_is_not_stored_again(chain: Chain) -> None:
    chain.write(RELATION, os.urandom(3 * RUN))
    chain.write("base/5/16385", b"")
    chain.write("PG_VERSION", b"18\n")
    first = chain.run()
    second = chain.run()
    assert (first.head["kind"], first.head["parent"]) == ("full", None)
    assert (second.head["kind"], second.head["parent"]) == ("incremental", first.head["backup"])
    assert second.head["added_bytes"] == 0
    assert restored(second) == chain.content()
    second.check_everything()


def test_changed_pages_are_stored_together_and_no_others(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(8 * RUN))
    chain.run()
    change(path, [0, 5, 6, 400, 900, 1023])
    second = chain.run()
    assert stored_by_last(chain) == 6
    assert len({frame[:2] for frame in second.files[RELATION].frames}) == 9
    assert restored(second) == chain.content()
    second.check_everything()


def test_each_backup_of_a_chain_restores_by_itself(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(4 * RUN))
    contents = []
    for round_number in range(6):
        change(path, random.Random(round_number).sample(range(512), 40))
        chain.run()
        contents.append(chain.content())
    for name, content in zip(chain.made, contents, strict=True):
        assert restored(chain.read(name)) == content


@pytest.mark.parametrize(
    "size", [0, 1, PAGE - 1, PAGE, RUN - 5, RUN + 5000, 3 * RUN, 4 * RUN, 5 * RUN + 7]
)
def test_a_file_may_take_any_other_length(chain: Chain, size: int) -> None:
    path = chain.write("file", os.urandom(3 * RUN + 4096))
    chain.run()
    old = path.read_bytes()
    path.write_bytes((old + os.urandom(size))[:size])
    assert restored(chain.run()) == chain.content()
    path.write_bytes(old)
    assert restored(chain.run()) == chain.content()


def test_files_come_and_go(chain: Chain) -> None:
    chain.write("base/5/1", os.urandom(RUN))
    chain.write("base/5/2", os.urandom(PAGE))
    chain.run()
    (chain.data / "base/5/1").unlink()
    chain.write("base/5/3", os.urandom(2 * RUN))
    assert restored(chain.run()) == chain.content()
    chain.write("base/5/1", os.urandom(RUN))
    assert restored(chain.run()) == chain.content()


def test_pages_that_became_zero_are_holes(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(2 * RUN))
    chain.run()
    with path.open("r+b") as file:
        file.seek(10 * PAGE)
        file.write(bytes(30 * PAGE))
    second = chain.run()
    assert stored_by_last(chain) == 0
    assert restored(second) == chain.content()
    path.write_bytes(bytes(2 * RUN))
    assert restored(chain.run()) == chain.content()
    change(path, [3])
    assert restored(chain.run()) == chain.content()


@pytest.mark.parametrize("left", [0, 5000, PAGE, RUN + 5000])
def test_what_is_cut_off_while_pages_are_stored_again_stays_as_it_was_read(
    tmp_path: Path, left: int
) -> None:
    chain = Chain(tmp_path, checksums=False, jobs=1)
    path = chain.write(RELATION, os.urandom(2 * RUN))
    chain.run()
    change(path, [*range(1, 256, 3), *range(2, 256, 3)])  # two of three: the rest is stored again
    content = path.read_bytes()
    # The second piece is the last that is compared.
    chain.listener = Hook(lambda number: os.truncate(path, left) if number == 2 else None)
    backup = chain.run()
    assert backup.content(RELATION) == content
    backup.check_everything()


def test_a_full_backup_asks_nobody(chain: Chain) -> None:
    chain.write(RELATION, os.urandom(RUN))
    chain.run()
    second = chain.run(full=True)
    assert (second.head["kind"], second.head["parent"]) == ("full", None)
    assert stored_by_last(chain) == 128


# -- the cache --------------------------------------------------------------------------------


def damage_cache(chain: Chain, how: str) -> None:
    if how == "deleted":
        shutil.rmtree(chain.cache)
    for path in chain.cache.iterdir():
        data = path.read_bytes()
        if how == "without its index" and path.suffix == ".index":
            path.unlink()
        elif how == "index damaged" and path.suffix == ".index":
            path.write_bytes(data.replace(b"16384", b"16385"))
        elif how == "cut off" and path.suffix == ".hashes":
            path.write_bytes(data[:-8])
        elif how == "of another attempt":
            path.rename(path.with_stem("ef" * 16))
        elif how == "another's under this name" and path.suffix == ".index":
            path.write_bytes(data.replace(path.stem.encode(), b"ef" * 16))


@pytest.mark.parametrize(
    "how",
    [
        "deleted",
        "without its index",
        "index damaged",
        "cut off",
        "of another attempt",
        "another's under this name",
    ],
)
def test_a_cache_that_cannot_be_believed_is_made_again(chain: Chain, how: str) -> None:
    path = chain.write(RELATION, os.urandom(3 * RUN) + bytes(2 * RUN) + os.urandom(100))
    chain.write("base/5/16386", os.urandom(2 * RUN))
    chain.run()
    change(path, [9])
    chain.run()
    damage_cache(chain, how)
    change(path, [7])
    third = chain.run()
    assert third.head["kind"] == "incremental"
    assert stored_by_last(chain) == 1
    assert restored(third) == chain.content()


def test_damaged_hashes_cost_storing_and_nothing_else(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(3 * RUN))
    chain.run()
    (hashes,) = chain.cache.glob("*.hashes")
    data = bytearray(hashes.read_bytes())
    data[8 * 100 + 3] ^= 1
    hashes.write_bytes(data)
    change(path, [7])
    second = chain.run()
    assert stored_by_last(chain) == 2
    assert restored(second) == chain.content()


def test_only_the_last_cache_is_kept(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(RUN))
    for page in range(3):
        change(path, [page])
        chain.run()
    assert len([*chain.cache.iterdir()]) == 2


def test_without_a_place_for_a_cache_it_works_too(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(3 * RUN))
    chain.run(use_cache=False)
    change(path, [7, 300])
    second = chain.run(use_cache=False)
    assert stored_by_last(chain) == 2
    assert restored(second) == chain.content()


# -- reading less -----------------------------------------------------------------------------


def test_files_that_are_provably_as_they_were_are_not_read(chain: Chain) -> None:
    chain.settled = True
    chain.write("base/5/1", os.urandom(RUN))
    path = chain.write("base/5/2", os.urandom(RUN))
    chain.run()
    change(path, [1])
    second = chain.run()
    assert chain.unread == ["base/5/1"]
    assert restored(second) == chain.content()
    change(chain.data / "base/5/1", [1])
    assert restored(chain.run()) == chain.content()


def test_what_was_written_shortly_before_the_start_is_read(chain: Chain) -> None:
    """A write that stalls lands under the time at which it began."""
    path = chain.write(RELATION, os.urandom(RUN))
    chain.run()  # the file is younger than a minute
    found = path.stat()
    content = bytearray(path.read_bytes())
    content[5 * PAGE] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    second = chain.run()
    assert chain.unread == []
    assert restored(second) == chain.content()


@pytest.mark.parametrize("what", ["mtime", "inode", "size"])
def test_what_differs_in_any_way_is_read(chain: Chain, what: str) -> None:
    chain.settled = True
    path = chain.write(RELATION, os.urandom(RUN))
    chain.run()
    if what == "mtime":
        os.utime(path)
    elif what == "inode":
        path.with_name("new").write_bytes(path.read_bytes())
        path.with_name("new").replace(path)
    else:
        path.write_bytes(path.read_bytes() + b"x")
    chain.run()
    assert RELATION not in chain.unread
    chain.run()
    assert RELATION in chain.unread


def test_after_a_restart_of_the_machine_everything_is_read(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.settled = True
    chain.write(RELATION, os.urandom(RUN))
    chain.run()
    monkeypatch.setattr(skipping, "current_boot_id", lambda: "another")
    chain.run()
    assert chain.unread == []
    assert stored_by_last(chain) == 0


def test_on_a_file_system_of_others_nothing_is_skipped(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.settled = True
    path = chain.write(RELATION, os.urandom(RUN))
    chain.run()
    monkeypatch.setattr(skipping, "is_local", lambda directory: False)
    opened: list[str] = []
    real = os.open

    def note(path: str, *rest: int, **more: int) -> int:
        opened.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", note)
    chain.run()
    assert str(path) in opened


def test_every_so_often_all_files_are_read(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.settled = True
    chain.read_all_every = 3
    path = str(chain.write(RELATION, os.urandom(RUN)))
    opened: list[str] = []
    real = os.open

    def note(path: str, *rest: int, **more: int) -> int:
        opened.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", note)
    read = []
    for _ in range(7):
        opened.clear()
        chain.run()
        read.append(path in opened)
    assert read == [True, False, False, True, False, False, True]


# -- what is interrupted ----------------------------------------------------------------------


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("has_base", [True, False])
def test_an_interrupted_backup_is_gone_on_from(
    chain: Chain, has_base: bool, use_cache: bool
) -> None:
    large = chain.write("base/5/1", os.urandom(4 * RUN))
    small = chain.write("base/5/2", os.urandom(2 * RUN))
    if has_base:
        chain.run(use_cache=use_cache)
        change(large, [*range(100)])
        change(small, [*range(10)])
    with pytest.raises(BrokenOff):
        chain.run(use_cache=use_cache, break_off_after=1)
    change(large, [3])
    after = chain.run(use_cache=use_cache)
    assert after.head["kind"] == ("incremental" if has_base else "full")
    assert stored_by_last(chain) == 1 + (10 if has_base else 256)
    assert restored(after) == chain.content()
    after.check_everything()


def test_a_full_backup_goes_on_from_an_interrupted_full_one_only(chain: Chain) -> None:
    path = chain.write("base/5/1", os.urandom(4 * RUN))
    chain.run()
    change(path, [1])
    with pytest.raises(BrokenOff):
        chain.run(break_off_after=1)
    chain.run(full=True)
    assert stored_by_last(chain) == 512
    with pytest.raises(BrokenOff):
        chain.run(full=True, break_off_after=1)
    change(path, [2])
    chain.run(full=True)
    assert stored_by_last(chain) == 1


def test_a_manifest_that_is_damaged_is_passed_over_with_a_warning(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(2 * RUN))
    chain.run()
    change(path, [1])
    chain.run()
    for key in (LAYOUT.manifest(chain.made[-1]), LAYOUT.manifest_copy(chain.made[-1])):
        chain.repository.store.put(key, b"rubbish")
    third = chain.run()
    assert third.head["parent"] == chain.made[0]
    assert any(chain.made[1] in warning for warning in chain.progress.warnings)
    assert restored(third) == chain.content()


# -- damaged pages ----------------------------------------------------------------------------


def test_the_mark_of_a_damaged_page_stays_as_long_as_the_page(tmp_path: Path) -> None:
    chain = Chain(tmp_path, checksums=True)
    good = [sound_page(PAGE, block) for block in range(256)]
    bad = bytearray(good[7])
    bad[5000] ^= 1
    path = chain.write(RELATION, b"".join([*good[:7], bytes(bad), *good[8:]]))
    assert chain.run().files[RELATION].failed == [7]
    assert chain.run().files[RELATION].failed == [7]
    with path.open("r+b") as file:
        file.seek(7 * PAGE)
        file.write(good[7])
    third = chain.run()
    assert third.files[RELATION].failed == []
    assert stored_by_last(chain) == 1
