"""A file is left unread only if nothing can have written to it (invariant 28)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgkeep.backup import skipping
from pgkeep.backup.skipping import Skipping, current_boot_id, file_system_of, is_local, parse_mounts
from pgkeep.backup.source import SourceFile
from pgkeep.repository.manifest import FileRow

MINUTE = 60_000_000
OLD = 1_000_000_000
ROW = FileRow("base/5/1", 0, 8192, 0o600, OLD, OLD, 77, 1, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Here:
    """A file of this machine, and the fact that its parent recorded."""

    place: str
    boot: dict[str, Any]

    def file(self, **changes: Any) -> SourceFile:
        file = SourceFile("base/5/1", self.place, 0, 8192, 0o600, OLD, OLD, 77)
        return file._replace(**changes)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(skipping, "is_local", lambda directory: True)
    return Here(str(tmp_path / "1"), {"boot_id": current_boot_id(), "start_us": OLD + MINUTE})


def test_what_was_a_minute_old_and_is_the_same_is_skipped(here: Here) -> None:
    assert Skipping(here.boot).allows(here.file(), ROW)


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 16384},
        {"mtime_us": OLD - 1},
        {"ctime_us": OLD - 1},
        {"inode": 78},
        {"mtime_us": OLD + 1},
        {"ctime_us": OLD + 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_any_difference_has_it_read(here: Here, changes: dict[str, Any]) -> None:
    assert not Skipping(here.boot).allows(here.file(**changes), ROW)


def test_what_was_younger_than_a_minute_is_read(here: Here) -> None:
    row = ROW._replace(mtime_us=OLD + 1)
    assert not Skipping(here.boot).allows(here.file(mtime_us=OLD + 1), row)
    row = ROW._replace(ctime_us=OLD + 1)
    assert not Skipping(here.boot).allows(here.file(ctime_us=OLD + 1), row)


@pytest.mark.parametrize(
    "boot",
    [
        None,
        "rubbish",
        {},
        {"boot_id": None, "start_us": OLD + MINUTE},
        {"boot_id": "another", "start_us": OLD + MINUTE},
        {"boot_id": current_boot_id()},
        {"boot_id": current_boot_id(), "start_us": "soon"},
    ],
)
def test_without_proof_of_the_same_boot_everything_is_read(here: Here, boot: Any) -> None:
    assert not Skipping(boot).allows(here.file(), ROW)


def test_when_asked_to_everything_is_read(here: Here) -> None:
    assert not Skipping(here.boot, everything=True).allows(here.file(), ROW)


def test_a_file_with_damaged_pages_is_read(here: Here) -> None:
    assert not Skipping(here.boot).allows(here.file(), ROW._replace(failed_pages=1))


MOUNTS = rb"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:40 / /srv/a\040b rw - nfs4 server:/x rw
23 21 0:41 / /srv rw master:2 - xfs /dev/sdb rw
24 21 0:42 / /srv rw - fuse.sshfs host:/ rw
rubbish
"""


def test_the_innermost_and_latest_mount_counts() -> None:
    mounts = parse_mounts(MOUNTS)
    assert mounts == [
        ("/", "ext4"),
        ("/srv/a b", "nfs4"),
        ("/srv", "xfs"),
        ("/srv", "fuse.sshfs"),
    ]
    assert file_system_of("/var/lib", mounts) == "ext4"
    assert file_system_of("/srv/a b/c", mounts) == "nfs4"
    assert file_system_of("/srv", mounts) == "fuse.sshfs"
    assert file_system_of("/srvx", mounts) == "ext4"
    assert file_system_of("/anywhere", []) is None


def test_what_is_not_known_is_not_local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(skipping, "_MOUNTS", tmp_path / "nothing")
    is_local.cache_clear()
    assert not is_local(str(tmp_path))
    is_local.cache_clear()
