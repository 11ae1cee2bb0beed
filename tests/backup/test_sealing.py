"""A sealed repository shows nothing of what the database holds (invariant 24)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
import zstandard

from tests.backup.site import Site

pytestmark = pytest.mark.majors(18)
ZSTD = b"\x28\xb5\x2f\xfd"
ROW = os.urandom(600)
NAMES = [b"crown_jewels", b"pg_filenode.map", b"global/pg_control", b"postgresql.auto.conf"]


def fill(site: Site) -> None:
    site.server.psql(
        "CREATE TABLE crown_jewels (b bytea); ALTER TABLE crown_jewels ALTER b SET STORAGE EXTERNAL"
    )
    site.server.psql(f"INSERT INTO crown_jewels VALUES ('\\x{ROW.hex()}')")
    site.backup()


def visible(site: Site) -> bytes:
    """All that a finder of the repository's files can read, compression seen through."""
    found = []
    for info in site.store.list():
        data = site.store.get(info.key)
        found += [info.key.encode(), data]
        at = data.find(ZSTD)
        while at >= 0:
            with contextlib.suppress(zstandard.ZstdError):
                found.append(zstandard.ZstdDecompressor().decompressobj().decompress(data[at:]))
            at = data.find(ZSTD, at + 1)
    return b"".join(found)


def test_nothing_can_be_read_without_the_identity(site: Site) -> None:
    fill(site)
    seen = visible(site)
    assert [needle for needle in (ROW, ROW[100:140], *NAMES) if needle in seen] == []
    assert b"20" in seen  # names of backups and of segments are plain


def test_without_sealing_the_same_look_finds_everything(make_site: Callable[..., Site]) -> None:
    site = make_site(sealing="none")
    fill(site)
    seen = visible(site)
    assert [needle for needle in (ROW, *NAMES) if needle not in seen] == []
