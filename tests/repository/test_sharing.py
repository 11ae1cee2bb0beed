"""What a backup shares and what deleting it would free follows from who else names its packs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pgkeep.repository import sharing
from pgkeep.repository.catalogue import load_manifest, read_catalogue
from pgkeep.repository.identity import Repository
from pgkeep.repository.manifest import Manifest
from pgkeep.repository.record import build_record
from pgkeep.repository.sharing import Sharing, packs_of, read_sharing, share
from tests.repository.kit import AT, BY, LAYOUT, head, make_repository, put_backup

A, B, C, D = ("aa" * 16, 1), ("aa" * 16, 2), ("bb" * 16, 1), ("cc" * 16, 1)
SIZES = {A: 1000, B: 2000, C: 4000, D: 8000}
MONDAY, TUESDAY, WEDNESDAY = (f"2026112{day}T020000Z" for day in range(3))


@pytest.mark.parametrize(
    ("others", "wanted"),
    [
        ({}, (0, 7000, ())),
        ({TUESDAY: [D]}, (0, 7000, ())),
        ({TUESDAY: [A, D]}, (1000, 6000, (TUESDAY,))),
        ({WEDNESDAY: [A, C], TUESDAY: [A, B]}, (7000, 0, (TUESDAY, WEDNESDAY))),
        ({TUESDAY: None}, (0, None, ())),
        ({TUESDAY: None, WEDNESDAY: [B]}, (2000, None, (WEDNESDAY,))),
    ],
)
def test_packs_that_nobody_else_names_would_be_freed(others: Any, wanted: Any) -> None:
    assert share({A: 1000, B: 2000, C: 4000}, others) == Sharing(*wanted)


def put(repository: Repository, backup: str, *packs: tuple[str, int], copies: str = "both") -> None:
    named = {pack: SIZES[pack] for pack in packs}
    put_backup(repository, head(backup, "0/300028", "0/300100"), packs=named, copies=copies)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Three backups; each stored something, and took over what was there."""
    repository, _ = make_repository(tmp_path, sealed=True)
    put(repository, MONDAY, A, B)
    put(repository, TUESDAY, A, C, copies="second")
    put(repository, WEDNESDAY, A, C, D)
    return repository


def sharing_of(repository: Repository, name: str) -> Sharing:
    backups, problems = read_catalogue(repository, LAYOUT)
    (backup,) = (one for one in backups if one.id == name)
    manifest = load_manifest(repository, LAYOUT, backup)
    packs = packs_of(manifest)
    manifest.close()
    return read_sharing(
        repository,
        LAYOUT,
        packs,
        others=[one for one in backups if one.id != name],
        unreadable=[problem.backup for problem in problems],
    )


def test_each_of_three_backups_frees_what_is_only_its_own(repository: Repository) -> None:
    assert sharing_of(repository, MONDAY) == Sharing(1000, 2000, (TUESDAY, WEDNESDAY))
    assert sharing_of(repository, TUESDAY) == Sharing(5000, 0, (MONDAY, WEDNESDAY))
    assert sharing_of(repository, WEDNESDAY) == Sharing(5000, 8000, (MONDAY, TUESDAY))


def test_a_void_backup_owns_nothing(repository: Repository) -> None:
    record = build_record("void", {"backup": WEDNESDAY, "reason": "test"}, at=AT, by=BY)
    repository.store.put(LAYOUT.void(WEDNESDAY), record)
    assert sharing_of(repository, TUESDAY) == Sharing(1000, 4000, (MONDAY,))


def damage(repository: Repository, name: str, *, from_byte: int) -> None:
    for key in (LAYOUT.manifest(name), LAYOUT.manifest_copy(name)):
        if repository.store.exists(key):
            data = repository.store.get(key)
            repository.store.put(key, data[:from_byte] + bytes(len(data[from_byte:])))


@pytest.mark.parametrize("what", ["head", "body"])
def test_a_backup_that_cannot_be_read_may_own_everything(repository: Repository, what: str) -> None:
    """Said as unknown, and not as a size that deleting would not free."""
    size = len(repository.store.get(LAYOUT.manifest(WEDNESDAY)))
    damage(repository, WEDNESDAY, from_byte=0 if what == "head" else size - 100)
    assert sharing_of(repository, TUESDAY) == Sharing(1000, None, (MONDAY,))


def test_a_backup_that_is_deleted_meanwhile_owns_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deleted_first(*arguments: Any) -> Manifest:
        store = repository.store
        store.delete([LAYOUT.manifest(WEDNESDAY), LAYOUT.manifest_copy(WEDNESDAY)])
        return load_manifest(*arguments)

    monkeypatch.setattr(sharing, "load_manifest", deleted_first)
    assert sharing_of(repository, TUESDAY) == Sharing(1000, 4000, (MONDAY,))


def test_few_manifests_are_in_memory_at_a_time(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        put(repository, f"2026111{number // 10}T02000{number % 10}Z", A)
    lock, loaded, most = threading.Lock(), 0, 0

    def load(*arguments: Any) -> Manifest:
        nonlocal loaded, most
        manifest = load_manifest(*arguments)
        close = manifest.close
        with lock:
            loaded += 1
            most = max(most, loaded)

        def closed() -> None:
            nonlocal loaded
            with lock:
                loaded -= 1
            close()

        manifest.close = closed  # type: ignore[method-assign]
        return manifest

    monkeypatch.setattr(sharing, "load_manifest", load)
    assert len(sharing_of(repository, TUESDAY).shared_with) == 42
    assert loaded == 0
    assert most <= 4
