"""Whatever an administrator put elsewhere is in the backup, and comes back in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.digest import assert_same_digest, cluster_digest
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import server_user

pytestmark = pytest.mark.end_to_end


def made(path: Path) -> Path:
    path.mkdir(parents=True)
    return server_user().own(path)


def move(path: Path, place: Path) -> None:
    """Move a file or directory to ``place``, and leave a link to a link to it."""
    shutil.move(path, place)
    first = place.with_name(f"{place.name}-link")
    first.symlink_to(place)
    path.symlink_to(first)


@pytest.mark.majors(18)
def test_links_of_every_kind(site: Site) -> None:
    server, disk = site.server, made(site.root / "disk")
    spaces = {name: made(site.root / name) for name in ("fast", "far")}
    server.psql("CREATE DATABASE moved")
    server.psql(f"CREATE TABLESPACE fast LOCATION '{spaces['fast']}'")
    (site.root / "by link").symlink_to(spaces["far"])
    server.psql(f"CREATE TABLESPACE far LOCATION '{site.root / 'by link'}'")
    server.psql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''")
    for space in ("fast", "far", "inside"):
        server.psql(f"CREATE TABLE in_{space} TABLESPACE {space} AS SELECT generate_series(1, 999)")
    server.psql("CREATE TABLE m AS SELECT generate_series(1, 999)", dbname="moved")
    oid = server.psql("SELECT oid FROM pg_database WHERE datname = 'moved'")
    server.stop()
    move(server.pgdata / "pg_wal", disk / "wal")
    move(server.pgdata / f"base/{oid}", disk / "database")
    move(server.pgdata / "pg_xact", disk / "xact")
    # Within a tablespace, too: a database's directory on a third disk.
    (inner,) = spaces["fast"].glob("PG_*/*")
    move(inner, disk / "inner")
    server.start()

    first = site.backup()
    server.psql("INSERT INTO in_fast SELECT generate_series(1, 999)")
    server.psql("INSERT INTO in_inside SELECT generate_series(1, 999)")
    server.psql("INSERT INTO m SELECT generate_series(1, 999)", dbname="moved")
    second = site.backup()
    assert first.left_out + second.left_out == ()
    assert first.failed + second.failed == ()
    assert second.head.added_bytes < first.head.added_bytes / 2
    digest = cluster_digest(server)
    server.wait_archived()
    server.stop()
    before = {name: content(place) for name, place in spaces.items()}

    told = {"fast": str(site.root / "told/fast")}
    for into, options in (
        ("beside", {}),
        ("mapped", {"tablespaces": told}),
        ("mapped", {"delta": True, "backup": first.head.backup}),
    ):
        report = site.restore(into, **options)
        pgdata = report.plan.options.into
        verify_backup(server.installation, pgdata)
        copy = site.recovered(report)
        assert_same_digest(digest, cluster_digest(copy))
        assert copy.psql("SELECT count(*) FROM m", dbname="moved") == "1998"
        copy.psql(
            "UPDATE in_inside SET generate_series = 1; UPDATE in_fast SET generate_series = 1"
        )
        copy.stop()
        links = sorted(path.name for path in (pgdata / "pg_tblspc").iterdir() if path.is_symlink())
        assert len(links) == 2
        assert len([*(pgdata / "pg_tblspc").iterdir()]) == 3
        for name in ("pg_wal", f"base/{oid}", "pg_xact"):
            assert not (pgdata / name).is_symlink(), name
    assert any(Path(told["fast"]).rglob("*"))
    assert {name: content(place) for name, place in spaces.items()} == before


def content(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}
