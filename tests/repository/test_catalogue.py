"""What listing the repository means: which backups exist, and how far back one can go."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.errors import DamagedObject, FormatTooNew, IdentityNeeded, StoreError
from pgkeep.repository.catalogue import (
    Gap,
    is_complete,
    is_good,
    list_backups,
    load_manifest,
    read_catalogue,
    read_inventory,
    recovery_windows,
)
from pgkeep.repository.identity import Repository, make_keyring
from pgkeep.repository.record import build_record
from pgkeep.repository.wal_inventory import read_whole_inventory
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from tests.repository.kit import (
    AT,
    BY,
    HEAD,
    LAYOUT,
    SEGMENT,
    head,
    make_repository,
    put_backup,
    put_history,
    put_segment,
)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path)[0]


def windows(repository: Repository) -> list[tuple[int, str, tuple[str, ...]]]:
    inventory = read_inventory(repository, LAYOUT, SEGMENT)
    found = recovery_windows(repository, LAYOUT, list_backups(repository, LAYOUT), inventory)
    return [(w.timeline, w.last_segment, w.backups) for w in found]


@pytest.mark.parametrize("copies", ["both", "first", "second"])
def test_a_backup_exists_when_one_of_its_manifests_does(
    repository: Repository, copies: str
) -> None:
    """Invariant 2."""
    put_backup(repository, HEAD, copies=copies)
    (backup,) = list_backups(repository, LAYOUT)
    assert backup.id == HEAD.backup
    assert backup.copies == (copies != "second", copies != "first")
    assert load_manifest(repository, LAYOUT, backup).head == HEAD


def test_a_void_backup_does_not_exist(repository: Repository) -> None:
    put_backup(repository, HEAD)
    record = build_record("void", {"backup": HEAD.backup, "reason": "pin died"}, at=AT, by=BY)
    repository.store.put(LAYOUT.voids + HEAD.backup, record)
    assert list_backups(repository, LAYOUT) == []


def test_a_damaged_manifest_is_replaced_by_its_copy(repository: Repository) -> None:
    put_backup(repository, HEAD)
    repository.store.put(LAYOUT.manifest(HEAD.backup), b"rubbish")
    (backup,) = list_backups(repository, LAYOUT)
    assert load_manifest(repository, LAYOUT, backup).head == HEAD


def test_a_backup_whose_manifests_are_both_damaged_is_an_error_and_not_an_absence(
    repository: Repository,
) -> None:
    for key in (LAYOUT.manifest(HEAD.backup), LAYOUT.manifest_copy(HEAD.backup)):
        repository.store.put(key, b"rubbish")
    with pytest.raises(DamagedObject):
        list_backups(repository, LAYOUT)


def test_a_manifest_under_another_name_is_refused(repository: Repository) -> None:
    """Invariant 7."""
    put_backup(repository, HEAD)
    data = repository.store.get(LAYOUT.manifest(HEAD.backup))
    repository.store.put(LAYOUT.manifest("20270101T000000Z"), data)
    with pytest.raises(DamagedObject):
        list_backups(repository, LAYOUT)


def test_listing_a_sealed_repository_needs_the_metadata_key(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path, sealed=True)
    put_backup(repository, HEAD)
    blind = Repository(repository.store, repository.identity, make_keyring(repository.identity))
    with pytest.raises(IdentityNeeded):
        list_backups(blind, LAYOUT)


def test_a_backup_is_good_only_with_all_its_wal(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/500100"))
    for segno in (3, 5):
        put_segment(repository, 1, segno)
    (backup,) = list_backups(repository, LAYOUT)
    assert not is_complete(backup, read_inventory(repository, LAYOUT, SEGMENT))
    put_segment(repository, 1, 4)
    assert is_good(backup, read_inventory(repository, LAYOUT, SEGMENT))


def test_a_stop_on_a_segment_boundary_needs_nothing_of_the_next(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/400000"))
    put_segment(repository, 1, 3)
    (backup,) = list_backups(repository, LAYOUT)
    assert is_complete(backup, read_inventory(repository, LAYOUT, SEGMENT))


def test_a_backup_with_failed_pages_is_not_good(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100", failed_pages=1))
    put_segment(repository, 1, 3)
    (backup,) = list_backups(repository, LAYOUT)
    assert not is_good(backup, read_inventory(repository, LAYOUT, SEGMENT))


def test_a_window_ends_at_the_first_gap_and_the_gap_is_named(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    for segno in (3, 4, 5, 8, 9):
        put_segment(repository, 1, segno)
    assert windows(repository) == [(1, "000000010000000000000005", ("20261120T120000Z",))]
    assert read_inventory(repository, LAYOUT, SEGMENT).gaps() == [
        Gap(1, "000000010000000000000006", "000000010000000000000007", 2)
    ]


def test_a_listing_that_is_behind_is_not_the_end_of_wal(repository: Repository) -> None:
    """A restore to the latest moment would lose the last segment without a word."""
    for number in (3, 4, 5):
        put_segment(repository, 1, number)
    faulty = FaultyStore(repository.store)
    frail = repository._replace(store=faulty)
    for times in (1, 2):
        faulty.fail(Fault(Failure.STALE, "list", LAYOUT.wal, times=times))
        inventory = read_whole_inventory(frail, LAYOUT, SEGMENT)
        assert [*inventory.segments[1]] == [3, 4, 5]
    faulty.fail(Fault(Failure.STALE, "list", LAYOUT.wal, times=None))
    with pytest.raises(StoreError, match="does not list it") as caught:
        read_whole_inventory(frail, LAYOUT, SEGMENT)
    assert caught.value.remedy


def test_wal_that_arrives_while_it_is_listed_is_no_reason_to_refuse(
    repository: Repository,
) -> None:
    put_segment(repository, 1, 3)
    store, number = repository.store, 4
    plain = store.exists

    def exists(key: str) -> bool:
        nonlocal number
        put_segment(repository, 1, number)
        number += 1
        return plain(key)

    store.exists = exists  # type: ignore[method-assign]
    assert [*read_whole_inventory(repository, LAYOUT, SEGMENT).segments[1]] == [3, 4]


def test_backups_before_and_after_a_gap_have_windows_of_their_own(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    put_backup(repository, head("20261120T130000Z", "0/800028", "0/800100"))
    for segno in (3, 4, 8, 9):
        put_segment(repository, 1, segno)
    assert windows(repository) == [
        (1, "000000010000000000000004", ("20261120T120000Z",)),
        (1, "000000010000000000000009", ("20261120T130000Z",)),
    ]


def test_a_child_timeline_continues_its_parents_window(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    for segno in (3, 4, 5, 6):
        put_segment(repository, 1, segno)
    put_history(repository, 2, b"1\t0/580000\tno recovery target specified\n")
    for segno in (5, 6):
        put_segment(repository, 2, segno)
    assert windows(repository) == [
        (1, "000000010000000000000006", ("20261120T120000Z",)),
        (2, "000000020000000000000006", ("20261120T120000Z",)),
    ]


def test_a_backup_after_the_switch_point_does_not_reach_the_child(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/600028", "0/600100"))
    put_segment(repository, 1, 6)
    put_history(repository, 2, b"1\t0/580000\tno recovery target specified\n")
    put_segment(repository, 2, 5)
    assert windows(repository) == [(1, "000000010000000000000006", ("20261120T120000Z",))]


def test_a_timeline_without_its_history_file_has_no_window(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    put_segment(repository, 1, 3)
    put_segment(repository, 2, 4)
    assert [timeline for timeline, _, _ in windows(repository)] == [1]


def test_one_damaged_backup_does_not_hide_the_others(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    put_backup(repository, head("20261121T120000Z", "0/400028", "0/400100"))
    put_backup(repository, head("20261122T120000Z", "0/500028", "0/500100"))
    keys = (LAYOUT.manifest("20261121T120000Z"), LAYOUT.manifest_copy("20261121T120000Z"))
    damaged = bytearray(repository.store.get(keys[0]))
    damaged[100] ^= 1
    for key in keys:
        repository.store.put(key, bytes(damaged))
    catalogue = read_catalogue(repository, LAYOUT)
    assert [backup.id for backup in catalogue.backups] == ["20261120T120000Z", "20261122T120000Z"]
    (problem,) = catalogue.problems
    assert problem.backup == "20261121T120000Z"
    assert isinstance(problem.error, DamagedObject)
    with pytest.raises(DamagedObject):
        list_backups(repository, LAYOUT)


def test_a_backup_of_a_newer_format_does_not_hide_the_others(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    data = bytearray(repository.store.get(LAYOUT.manifest("20261120T120000Z")))
    data[7] = 2
    repository.store.put(LAYOUT.manifest("20261121T120000Z"), bytes(data))
    catalogue = read_catalogue(repository, LAYOUT)
    assert [backup.id for backup in catalogue.backups] == ["20261120T120000Z"]
    assert [type(problem.error) for problem in catalogue.problems] == [FormatTooNew]


def test_a_backup_that_is_deleted_while_we_list_is_no_problem(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    put_backup(repository, head("20261121T120000Z", "0/400028", "0/400100"))
    store = repository.store
    plain = store.get_range

    def deleting(key: str, start: int, length: int) -> bytes:
        if key.endswith("20261121T120000Z"):
            store.delete([key])
        return plain(key, start, length)

    store.get_range = deleting  # type: ignore[method-assign]
    catalogue = read_catalogue(repository, LAYOUT)
    assert [backup.id for backup in catalogue.backups] == ["20261120T120000Z"]
    assert catalogue.problems == ()


def test_a_damaged_last_segment_ends_the_window_before_itself(repository: Repository) -> None:
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/300100"))
    for segno in (3, 4, 5):
        put_segment(repository, 1, segno)
    key = LAYOUT.wal_file("000000010000000000000005")
    data = bytearray(repository.store.get(key))
    data[60] ^= 1
    repository.store.put(key, bytes(data))
    assert windows(repository) == [(1, "000000010000000000000004", ("20261120T120000Z",))]
