"""Whatever happens to an object, verify names it and what breaks by it; no server is needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgkeep.progress import Silent
from pgkeep.repository.catalogue import list_backups, load_manifest
from pgkeep.repository.check_records import read_checks
from pgkeep.repository.checks import DEEP, QUICK, SCRUB
from pgkeep.repository.pack import PackWriter
from pgkeep.verify.run import VerifyOptions, VerifyReport, verify
from tests.backup.chain import RELATION, Chain
from tests.backup.format_reader import ReadBackup
from tests.backup.scratch import PAGE
from tests.repository.kit import HEAD, LAYOUT, make_repository, put_backup, put_segment
from tests.test_golden import GOLDEN, Golden

BY = {"host": "test", "pid": 1, "version": "0"}


@pytest.fixture(params=GOLDEN, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    found = Golden(request.param)
    yield found
    shutil.rmtree(found.root)


def check(golden: Golden, level: str, share: float | None = None) -> VerifyReport:
    options = VerifyOptions(level, BY, share)
    return verify(golden.repository, golden.layout, options, progress=Silent())


def place(golden: Golden, key: str) -> Path:
    return golden.root / "repository" / key


def first(golden: Golden, prefix: str) -> str:
    return next(iter(golden.store.list(prefix))).key


def flip(path: Path, at: int = -1000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def keys(report: VerifyReport) -> set[str]:
    return {problem.key for problem in report.problems}


@pytest.mark.parametrize("level", [QUICK, SCRUB, DEEP])
def test_a_sound_repository_is_good_and_the_record_says_so(golden: Golden, level: str) -> None:
    report = check(golden, level)
    assert report.problems == []
    assert list(report.proved) == list(golden.expected["backups"])
    for backup in golden.expected["backups"]:
        found = read_checks(golden.repository, golden.layout).of_backup(backup)
        assert found is not None
        assert (found.level, found.is_good) == (level, True)


def test_a_missing_and_a_short_pack_are_named_with_all_backups_that_need_them(
    golden: Golden,
) -> None:
    packs = sorted(info.key for info in golden.store.list(golden.layout.packs))
    needed = {
        backup: {
            golden.layout.pack(attempt.hex(), number) for attempt, number in _packs(golden, backup)
        }
        for backup in golden.expected["backups"]
    }
    missing, short = [key for key in packs if any(key in n for n in needed.values())][:2]
    place(golden, missing).unlink()
    path = place(golden, short)
    path.write_bytes(path.read_bytes()[:-1])
    report = check(golden, QUICK)
    assert keys(report) == {missing, short}
    for problem in report.problems:
        assert list(problem.backups) == [b for b, names in needed.items() if problem.key in names]


def _packs(golden: Golden, backup: str) -> set[tuple[bytes, int]]:
    (one,) = (
        found for found in list_backups(golden.repository, golden.layout) if found.id == backup
    )
    manifest = load_manifest(golden.repository, golden.layout, one)
    try:
        return {(bytes.fromhex(p.attempt), p.number) for p in manifest.packs().values()}
    finally:
        manifest.close()


@pytest.mark.parametrize("kind", ["packs", "manifests", "manifests_copy", "wal"])
def test_a_flipped_bit_is_found_without_a_key(golden: Golden, kind: str) -> None:
    prefix = getattr(golden.layout, kind.replace("manifests_copy", "manifest_copies"))
    key = first(golden, prefix)
    flip(place(golden, key), at=-50)
    assert check(golden, SCRUB).problems
    assert key in keys(check(golden, SCRUB))


def test_packs_that_changed_places_are_found(golden: Golden) -> None:
    one, two = [info.key for info in golden.store.list(golden.layout.packs)][:2]
    a, b = place(golden, one).read_bytes(), place(golden, two).read_bytes()
    place(golden, one).write_bytes(b)
    place(golden, two).write_bytes(a)
    assert {one, two} <= keys(check(golden, SCRUB))


def test_a_manifest_in_the_place_of_another_is_found(golden: Golden) -> None:
    old, *_, new = sorted(golden.expected["backups"])
    copy = place(golden, golden.layout.manifest(new))
    copy.write_bytes(place(golden, golden.layout.manifest(old)).read_bytes())
    report = check(golden, QUICK)
    assert keys(report) == {golden.layout.manifest(new)}
    assert report.problems[0].backups == ()  # the other copy is sound, and is what counts


def test_one_of_two_manifests_gone_is_named_and_breaks_nothing(golden: Golden) -> None:
    backup = min(golden.expected["backups"])
    place(golden, golden.layout.manifest(backup)).unlink()
    report = check(golden, QUICK)
    assert keys(report) == {golden.layout.manifest(backup)}
    assert backup in report.proved


def test_both_manifests_damaged_break_the_backup(golden: Golden) -> None:
    backup = min(golden.expected["backups"])
    for key in (golden.layout.manifest(backup), golden.layout.manifest_copy(backup)):
        flip(place(golden, key), at=60)
    report = check(golden, QUICK)
    assert any(backup in problem.backups for problem in report.problems)
    assert backup not in report.proved


def test_a_segment_missing_in_the_middle_is_named(golden: Golden) -> None:
    head = list_backups(golden.repository, golden.layout)[1].head
    names = [i.key for i in golden.store.list(golden.layout.wal) if len(i.key.split("/")[-1]) == 24]
    for key in names[len(names) // 2 :]:
        if key != names[-1]:
            place(golden, key).unlink()
            report = check(golden, QUICK)
            assert key in keys(report), head
            assert all(p.backups or p.windows for p in report.problems)
            return


def test_a_damaged_history_file_stops_no_check(golden: Golden) -> None:
    key = golden.layout.history + "00000002.history"
    path = place(golden, key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"PGKEEP broken")
    assert keys(check(golden, QUICK)) == {key}


def test_a_scrub_goes_on_where_the_last_one_ended(golden: Golden) -> None:
    everything = check(golden, SCRUB).read
    assert everything is not None
    seen, runs, report = 0, 0, None
    while report is None or not report.round_done:
        report = check(golden, SCRUB, share=0.25)
        assert report.read is not None
        seen, runs = seen + report.read.objects, runs + 1
        assert runs < 20
    # Each run adds its own record to what there is to read.
    assert everything.objects <= seen <= everything.objects + runs + 1
    assert runs > 2
    assert report.proved


def test_what_verify_found_bad_is_stored_again_by_the_next_backup(tmp_path: Path) -> None:
    chain = Chain(tmp_path, checksums=False)
    chain.write(RELATION, os.urandom(64 * PAGE))
    chain.run()
    store = chain.repository.store
    pack = next(iter(store.list(LAYOUT.packs))).key
    data = bytearray(store.get(pack))
    data[len(data) // 2] ^= 1
    store.delete([pack])
    store.put(pack, bytes(data))
    # With its full size it is taken over as long as nobody has read it.
    assert pack in _data_packs(chain.run())
    report = verify(chain.repository, LAYOUT, VerifyOptions(SCRUB, BY), progress=Silent())
    assert pack in keys(report)
    assert pack not in _data_packs(chain.run())


def _data_packs(backup: ReadBackup) -> set[str]:
    """The packs from which pages are taken."""
    return {
        LAYOUT.pack(file.packs[frame[0]][0].hex(), file.packs[frame[0]][1])
        for file in backup.files.values()
        for frame in file.frames
    }


def test_another_pack_under_the_same_name_is_found_by_the_manifest_alone(tmp_path: Path) -> None:
    """Sound in itself, with the right name and size: as one of an earlier attempt to store it."""
    repository, _ = make_repository(tmp_path)
    put_segment(repository, 1, 3)
    writer = PackWriter(repository.keyring, "ab" * 16, 1, page_size=PAGE)
    writer.add_data(os.urandom(PAGE), b"")
    info, data = writer.finish()
    repository.store.put(info.key(LAYOUT), bytes(data))
    put_backup(repository, HEAD, packs={(info.attempt, 1): info.size_bytes})
    assert verify(repository, LAYOUT, VerifyOptions(QUICK, BY), progress=Silent()).problems == []
    (problem,) = verify(repository, LAYOUT, VerifyOptions(SCRUB, BY), progress=Silent()).problems
    assert problem.what == "it is not the pack that the manifest names"
    assert problem.backups == (HEAD.backup,)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_two_manifests_of_a_backup_that_differ_are_found(tmp_path: Path, sealed: bool) -> None:
    """Each is sound, and they tell different things."""
    repository, _ = make_repository(tmp_path, sealed=sealed)
    put_segment(repository, 1, 3)
    put_backup(repository, HEAD, copies="first")
    put_backup(repository, replace(HEAD, note="another"), copies="second")
    report = verify(repository, LAYOUT, VerifyOptions(QUICK, BY), progress=Silent())
    (problem,) = report.problems
    assert problem.key == LAYOUT.manifest_copy(HEAD.backup)
    assert LAYOUT.manifest(HEAD.backup) in problem.what
