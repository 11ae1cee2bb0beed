"""A manifest gives back every row, and its head is read with one small request."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkeep.repository.manifest import (
    FileRow,
    ManifestBuilder,
    Tablespace,
    read_head,
    read_manifest,
)
from pgkeep.repository.pack import PackInfo
from tests.repository.kit import HEAD, LAYOUT, make_repository

_PATHS = ["base/5/16384", "back\\slash", "back\\x41slash", os.fsdecode(b"\xff\xfe"), "ü mlaut"]


@pytest.mark.parametrize("sealed", [True, False])
def test_every_row_comes_back(tmp_path: Path, sealed: bool) -> None:
    repository, _ = make_repository(tmp_path, sealed=sealed)
    builder = ManifestBuilder()
    pack = PackInfo("ab" * 16, 7, 1234, os.urandom(32), os.urandom(16), b"data", b"meta")
    builder.add_pack(pack)
    rows = [
        FileRow(path, 0, 8192, 0o600, 1, 2, 3, builder.pack_id("ab" * 16, 7), 0, 99, 50, slot, 0)
        for slot, path in enumerate(_PATHS)
    ]
    builder.add_files(rows)
    builder.add_directory("base", 0o700)
    builder.add_link("pg_tblspc/16400", "/srv/fast")
    builder.add_tablespace(Tablespace(16400, "fast", "/srv/fast"))
    builder.add_fact("server", {"major": 18})
    key = LAYOUT.manifest(HEAD.backup)
    repository.store.put(key, builder.build(repository.keyring, HEAD))

    manifest = read_manifest(repository.store, key, repository.keyring)
    assert manifest.head == HEAD == read_head(repository.store, key, repository.keyring)
    assert list(manifest.files()) == rows
    assert manifest.packs() == {1: pack}
    assert manifest.directories() == [("base", 0o700)]
    assert manifest.links() == [("pg_tblspc/16400", "/srv/fast")]
    assert manifest.tablespaces() == [Tablespace(16400, "fast", "/srv/fast")]
    assert manifest.facts() == {"server": {"major": 18}}


def test_a_sealed_manifest_shows_no_file_names(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path, sealed=True)
    builder = ManifestBuilder()
    builder.add_directory("a_telling_name", 0o700)
    data = bytes(builder.build(repository.keyring, HEAD))
    assert b"a_telling_name" not in data
    assert b"SQLite" not in data
