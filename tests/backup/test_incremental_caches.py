"""What a host knows of the last backup may be gone, old or another's: the next backup is right
(invariant 11)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.progress import Silent
from tests.backup.lineage import Lineage, files_that_differ

pytestmark = [pytest.mark.majors(18), pytest.mark.usefixtures("hasty")]

Change = Callable[[Lineage, Path, Path], None]


def deleted(lineage: Lineage, cache: Path, other: Path) -> None:
    shutil.rmtree(cache)


def of_an_older_backup(lineage: Lineage, cache: Path, other: Path) -> None:
    replace_by(cache, other / "older")


def of_an_older_backup_under_the_last_name(lineage: Lineage, cache: Path, other: Path) -> None:
    replace_by(cache, other / "older")
    rename_to_last(lineage, cache)


def of_another_cluster(lineage: Lineage, cache: Path, other: Path) -> None:
    replace_by(cache, other / "foreign")


def of_another_cluster_under_the_last_name(lineage: Lineage, cache: Path, other: Path) -> None:
    replace_by(cache, other / "foreign")
    rename_to_last(lineage, cache)


CHANGES: tuple[Change, ...] = (
    deleted,
    of_an_older_backup,
    of_an_older_backup_under_the_last_name,
    of_another_cluster,
    of_another_cluster_under_the_last_name,
)

OF_OTHERS = (of_another_cluster, of_another_cluster_under_the_last_name)

AS_AT_FIRST, AS_ELSEWHERE = os.urandom(9 * 8192), os.urandom(9 * 8192)


def returning(lineage: Lineage) -> Path:
    """A file that goes back to what a wrong cache has of it, while the last backup has it
    otherwise: no other would show that the cache was believed."""
    return lineage.server.pgdata / "returning"


def replace_by(cache: Path, other: Path) -> None:
    shutil.rmtree(cache)
    shutil.copytree(other, cache)


def rename_to_last(lineage: Lineage, cache: Path) -> None:
    attempt = lineage.read(lineage.made[-1]).head["attempt"]
    for path in [*cache.iterdir()]:
        path.rename(path.with_stem(attempt))


def test_a_cache_that_is_gone_old_or_of_others_makes_no_backup_wrong(
    make_lineage: Callable[..., Lineage],
) -> None:
    lineage, foreign = make_lineage(), make_lineage()
    for one in (lineage, foreign):
        one.server.psql(
            "CREATE TABLE t AS SELECT i, repeat('x', 50) AS filler FROM generate_series(1, 30000) i"
        )
        returning(one).write_bytes(AS_ELSEWHERE if one is foreign else AS_AT_FIRST)
        one.backup()
    (cache,), (other_cache,) = lineage.cache.iterdir(), foreign.cache.iterdir()
    kept = lineage.server.root / "kept"
    shutil.copytree(cache, kept / "older")
    shutil.copytree(other_cache, kept / "foreign")
    for number, change in enumerate(CHANGES):
        for more in (0, 1):
            update(lineage, 2 * number + more)
            returning(lineage).write_bytes(os.urandom(len(AS_AT_FIRST)))
            lineage.incremental()
        update(lineage, 50 + number)
        returning(lineage).write_bytes(AS_ELSEWHERE if change in OF_OTHERS else AS_AT_FIRST)
        change(lineage, cache, kept)
        last = lineage.incremental().head
        full = lineage.backup(full=True).head
        assert files_that_differ(lineage.read(last.backup), lineage.read(full.backup)) == [], change
    lineage.check(last.backup)


def update(lineage: Lineage, value: int) -> None:
    """Change pages, and nothing in the catalogue."""
    lineage.server.psql(f"UPDATE t SET filler = 'now {value}' WHERE i % 60 = {value}")


def test_a_host_without_the_metadata_key_makes_full_backups_only_and_says_so(
    lineage: Lineage,
) -> None:
    lineage.server.psql("CREATE TABLE t AS SELECT i, '' AS filler FROM generate_series(1, 9000) i")
    first = lineage.backup().head
    for value in (1, 2):
        update(lineage, value)
        progress = Silent()
        locked = lineage.site.repository(unlocked=False)
        head = lineage.backup(repository=locked, progress=progress).head
        assert (head.kind, head.parent) == ("full", None)
        assert any("full backups only" in warning for warning in progress.warnings)
    update(lineage, 3)
    last = lineage.backup().head
    assert (last.kind, last.parent) == ("incremental", first.backup)
    lineage.check_all()
