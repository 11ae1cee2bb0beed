"""A mirror that lost something gets it back, and one that hangs keeps nobody waiting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.factory import ServerFactory
from tests.mirror.site import Site
from tests.toxiproxy import DOWN, behind

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def site(server_factory: ServerFactory, pgkeep_program: Path) -> Site:
    """``main`` and ``second``, directories, with two backups in both."""
    site = Site(server_factory, pgkeep_program)
    site.server.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 60000) i")
    site.pgkeep("backup")
    site.server.psql("UPDATE t SET i = -i WHERE i % 100 = 0")
    site.pgkeep("backup")
    return site


def packs(root: Path) -> dict[str, bytes]:
    found = sorted(root.glob("main/*/packs/*/*"))
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.majors(18)
@pytest.mark.parametrize("kind", ["missing", "cut off", "damaged"])
@pytest.mark.parametrize("which", ["main", "second"])
def test_what_a_listed_backup_lacks_is_brought_back(site: Site, kind: str, which: str) -> None:
    root = site.main if which == "main" else site.second
    before = packs(root)
    for name in list(before)[::2]:
        path = root / name
        content = path.read_bytes()
        if kind == "missing":
            path.unlink()
        elif kind == "cut off":
            path.write_bytes(content[:-100])
        else:
            at = len(content) // 3
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    if kind == "damaged":  # its size says nothing: a check does
        site.pgkeep("verify", "--scrub", code=68)
    told = site.json("copy", "--dry-run", code=0 if kind != "cut off" else 67)
    (target,) = [one for one in told["targets"] if one["name"] == which]
    assert target["packs"] + target["mended"] == len(list(before)[::2])
    assert packs(root) != before
    site.pgkeep("copy")
    assert packs(root) == before
    site.pgkeep("verify", "--scrub")


@pytest.mark.majors(18)
def test_what_is_damaged_everywhere_is_named_and_nothing_is_deleted(site: Site) -> None:
    name = next(iter(packs(site.main)))
    for root in (site.main, site.second):
        path = root / name
        path.write_bytes(path.read_bytes()[:-7])
    assert name in site.pgkeep("copy", code=67)
    assert all((root / name).exists() for root in (site.main, site.second))


@pytest.mark.majors(18)
def test_a_mirror_that_hangs_keeps_neither_wal_nor_backups_waiting(
    request: pytest.FixtureRequest, server_factory: ServerFactory, pgkeep_program: Path
) -> None:
    service, cutter = behind(request, "minio")
    site = Site(server_factory, pgkeep_program, service=service, PGKEEP_COPIES="1")
    try:
        site.server.psql("CREATE TABLE t AS SELECT generate_series(1, 200000) i")
        site.pgkeep("backup")
        began = time.monotonic()
        site.pgkeep("backup", "--full")
        usual = time.monotonic() - began
        # It takes connections and says nothing any more: that is the worst that a store can do.
        cutter.add("timeout", DOWN, timeout=0)
        began = time.monotonic()
        name = site.server.wait_archived()
        assert time.monotonic() - began < 9, "a segment waited for a mirror that hangs"
        # The next is not even offered to it.
        began = time.monotonic()
        assert site.server.wait_archived() > name
        assert time.monotonic() - began < 5
        began = time.monotonic()
        said = site.pgkeep("backup", "--full")
        assert "left aside" in said
        assert time.monotonic() - began < usual + 100
        cutter.heal()
        site.pgkeep("copy")
        site.pgkeep("verify")
    finally:
        cutter.remove()
