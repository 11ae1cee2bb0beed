"""A restore that is refused says what can be restored instead, and that restores to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.errors import DamagedObject, PgkeepError
from pgkeep.repository.catalogue import list_backups, load_manifest
from pgkeep.restore.target import immediate, latest
from tests.servers import new_directory
from tests.test_golden import GOLDEN, Golden

MADE_BY_THE_RESTORE = ("backup_manifest", "postgresql.auto.conf", "pgkeep.copy", "pgkeep_wal/list")


@pytest.fixture(params=GOLDEN, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    found = Golden(request.param)
    yield found
    shutil.rmtree(found.root)


def content(folder: Path) -> dict[str, bytes]:
    """What came from the repository."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in found.items() if name not in MADE_BY_THE_RESTORE
    }


def own_pack(golden: Golden, backup: str) -> str:
    """A pack that this backup needs and no other."""
    needed: dict[str, set[str]] = {}
    for one in list_backups(golden.repository, golden.layout):
        manifest = load_manifest(golden.repository, golden.layout, one)
        needed[one.id] = {info.key(golden.layout) for info in manifest.packs().values()}
        manifest.close()
    others = set().union(*(packs for name, packs in needed.items() if name != backup))
    sizes = {info.key: info.size_bytes for info in golden.store.list(golden.layout.packs)}
    return max(needed[backup] - others, key=lambda key: sizes[key])


def restored(golden: Golden, backup: str | None) -> dict[str, bytes]:
    into = new_directory() / "data"
    try:
        golden.restore(into, backup=backup, target=immediate() if backup else latest())
        return content(into)
    finally:
        shutil.rmtree(into.parent, ignore_errors=True)


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_pack_of_one_backup_costs_that_backup(golden: Golden, how: str) -> None:
    *_, other, newest = sorted(golden.expected["backups"])
    before = restored(golden, other)
    path = golden.root / "repository" / own_pack(golden, newest)
    if how == "damaged":
        data = path.read_bytes()
        path.write_bytes(bytes(byte ^ 0x55 for byte in data))
    else:
        path.unlink()
    into = new_directory() / "data"
    try:
        with pytest.raises(PgkeepError) as refused:
            golden.restore(into, backup=newest, target=immediate())
        assert not (into / "global/pg_control").exists()
    finally:
        shutil.rmtree(into.parent, ignore_errors=True)
    remedy = refused.value.remedy or ""
    assert f"Backups that do not need it: {other}, " in remedy
    assert newest not in remedy
    assert restored(golden, other) == before


def test_manifests_of_one_backup_cost_that_backup(golden: Golden) -> None:
    *_, other, newest = sorted(golden.expected["backups"])
    before = restored(golden, other)
    for key in (golden.layout.manifest(newest), golden.layout.manifest_copy(newest)):
        path = golden.root / "repository" / key
        path.write_bytes(path.read_bytes()[:-100] + bytes(100))
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(data)
    for backup in (newest, None):  # without a name another one would be chosen without a word
        with pytest.raises(DamagedObject, match=rf"--backup: .*{other}"):
            restored(golden, backup)
    assert restored(golden, other) == before
