"""Missing WAL is told with its number; what a listing lacks is asked for, many at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from pgkeep.repository.checks import QUICK
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.wrapped import WrappedStore
from tests.repository.kit import HEAD, LAYOUT, head, make_repository, put_backup, put_segment
from tests.verify.kit import check


def segment(number: int) -> str:
    return f"0000000100000000{number:08X}"


def test_a_stretch_of_missing_segments_is_one_problem_with_their_number(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/3200000"))
    put_backup(repository, head("20261120T130000Z", "0/300028", "0/3200000"))
    for number in (3, *range(40, 50)):
        put_segment(repository, 1, number)
    (problem,) = check(repository, QUICK).problems
    assert problem.key == LAYOUT.wal_file(segment(4))
    assert problem.what == f"36 segments from {segment(4)} to {segment(39)} are missing"
    assert problem.backups == ("20261120T120000Z", "20261120T130000Z")
    assert problem.windows


def test_two_stretches_are_two_problems_and_one_segment_is_just_missing(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/A00000"))
    for number in (3, 5, 6, 9):
        put_segment(repository, 1, number)
    first, second = check(repository, QUICK).problems
    assert (first.key, first.what) == (LAYOUT.wal_file(segment(4)), "is missing")
    assert second.what == f"2 segments from {segment(7)} to {segment(8)} are missing"


def test_what_a_backup_misses_of_a_longer_hole_is_that_hole(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    put_backup(repository, head("20261120T120000Z", "0/300028", "0/500000"))
    for number in (3, 8, 9):
        put_segment(repository, 1, number)
    (problem,) = check(repository, QUICK).problems
    assert problem.what == f"4 segments from {segment(4)} to {segment(7)} are missing"
    assert problem.backups == ("20261120T120000Z",)
    assert problem.windows


class _Forgetful(WrappedStore):
    """Lists no packs, and answers a head only when four are asked for at once."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.together = threading.Barrier(4, timeout=30)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        found = super().list(prefix, start_after=start_after)
        return (info for info in found if not info.key.startswith(LAYOUT.packs))

    def head(self, key: str) -> ObjectInfo:
        self.together.wait()
        return super().head(key)


def test_packs_that_are_listed_late_are_asked_for_at_once(tmp_path: Path) -> None:
    store = _Forgetful(MemoryStore())
    repository, _ = make_repository(tmp_path, store=store)
    put_segment(repository, 1, 3)
    packs = {("ab" * 16, number): 1000 for number in range(1, 9)}
    put_backup(repository, HEAD, packs=packs)
    for (attempt, number), size in packs.items():
        if number != 8:
            store.put(LAYOUT.pack(attempt, number), bytes(size if number != 7 else 5))
    problems = {one.key: one.what for one in check(repository, QUICK).problems}
    assert problems == {
        LAYOUT.pack("ab" * 16, 7): "has 5 bytes instead of 1000",
        LAYOUT.pack("ab" * 16, 8): "is missing",
    }
