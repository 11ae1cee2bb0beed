"""Packs that are mostly dead, or too many, are done without."""

from __future__ import annotations

from pgkeep.backup.retiring import FEWEST_PACKS, most_packs, packs_to_retire
from pgkeep.repository.pack import PACK_BYTES

A = "aa" * 16


def test_packs_that_are_needed_are_kept() -> None:
    named = {(A, number): PACK_BYTES * 9 // 10 for number in range(10)}
    assert packs_to_retire(named, dict.fromkeys(named, PACK_BYTES)) == frozenset()


def test_a_pack_of_which_little_is_needed_goes() -> None:
    named = {(A, 1): PACK_BYTES // 5, (A, 2): PACK_BYTES // 3}
    assert packs_to_retire(named, dict.fromkeys(named, PACK_BYTES)) == {(A, 1)}


def test_a_small_pack_may_be_mostly_header() -> None:
    assert packs_to_retire({(A, 1): 100}, {(A, 1): 2000}) == frozenset()


def test_of_too_many_the_emptiest_go_until_there_is_room() -> None:
    named = {(A, number): 1000 + number for number in range(FEWEST_PACKS + 1)}
    gone = packs_to_retire(named, named)
    assert len(named) - len(gone) == FEWEST_PACKS * 3 // 4
    assert gone == {(A, number) for number in range(len(gone))}
    named.popitem()
    assert packs_to_retire(named, named) == frozenset()


def test_a_large_cluster_may_have_more() -> None:
    assert most_packs(0) == FEWEST_PACKS
    assert most_packs(1000 * PACK_BYTES) == 4000
