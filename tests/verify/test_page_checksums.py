"""A deep check computes page checksums again: what was damaged when it was stored is told."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pgkeep.repository.checks import DEEP, SCRUB
from pgkeep.verify.run import VerifyReport
from tests.backup.chain import RELATION
from tests.backup.scratch import START_LSN
from tests.repository.kit import HEAD
from tests.verify.kit import PAGE, Checked, sound_pages

SEGMENT_BLOCKS = (1 << 30) // PAGE


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Checked:
    return Checked(tmp_path, sealed=request.param)


def torn(pages: bytes, *wanted: int) -> bytes:
    """The pages with a wrong bit in some, and an LSN that WAL of no backup repairs."""
    made = bytearray(pages)
    for page in wanted:
        struct.pack_into("=II", made, page * PAGE, 0, 1)
        made[page * PAGE + 5000] ^= 1
    return bytes(made)


def only(report: VerifyReport) -> str:
    (problem,) = report.problems
    assert problem.backups == ()
    return problem.what


def test_sound_pages_new_pages_and_other_segments_are_good(chain: Checked) -> None:
    chain.write(RELATION, sound_pages(200) + bytes(3 * PAGE) + sound_pages(5, first=203))
    chain.write(f"{RELATION}.2", sound_pages(7, first=2 * SEGMENT_BLOCKS))
    chain.write(f"{RELATION}_fsm", sound_pages(3))
    chain.write("base/5/pg_filenode.map", b"no pages at all")
    chain.run()
    chain.write(RELATION, sound_pages(100) + sound_pages(30, first=100, seed=77))
    chain.run()
    report = chain.check(DEEP)
    assert report.problems == []
    assert report.proved == tuple(chain.made)


def test_a_relation_of_new_pages_alone_is_good(chain: Checked) -> None:
    chain.write(RELATION, bytes(20 * PAGE))
    chain.run()
    assert chain.check(DEEP).proved == tuple(chain.made)


def test_a_page_that_was_damaged_when_it_was_stored_is_named_by_file_and_page(
    chain: Checked,
) -> None:
    chain.write(RELATION, sound_pages(200))
    chain.run()
    changed = sound_pages(100) + sound_pages(100, first=100, seed=9)
    chain.write(RELATION, torn(changed, 150))
    chain.run()
    assert chain.check(SCRUB).problems == []
    report = chain.check(DEEP)
    what = only(report)
    assert f"page 150 of {RELATION} fails its page checksum" in what
    assert "damaged when it was stored" in what
    (problem,) = report.problems
    assert problem.flawed == (chain.made[1],)
    assert report.proved == (chain.made[0],)
    assert only(chain.check(SCRUB)) == what  # which is known by now
    assert report.broken == ()


def test_the_block_number_counts_from_the_relations_first_segment(chain: Checked) -> None:
    """Pages of the first segment in the place of the third's are sound in themselves only."""
    chain.write(f"{RELATION}.2", sound_pages(4))
    chain.run()
    assert f"page 0 of {RELATION}.2, page 1 of" in only(chain.check(DEEP))


def test_what_the_map_marks_is_told_as_what_it_is(tmp_path: Path) -> None:
    chain = Checked(tmp_path, checksums=True)
    chain.write(RELATION, torn(sound_pages(20), 7))
    chain.run()
    report = chain.check(DEEP)
    assert report.problems == []
    assert any("1 page" in note and chain.made[0] in note for note in report.notes)


def test_what_wal_of_the_backup_heals_is_no_damage(chain: Checked) -> None:
    pages = bytearray(torn(sound_pages(20), 7))
    struct.pack_into("=II", pages, 7 * PAGE, 0, int(START_LSN) + 8)
    chain.write(RELATION, bytes(pages))
    chain.run()
    assert chain.check(DEEP).problems == []


def test_a_cluster_without_checksums_has_none_to_fail(
    chain: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(
        "tests.backup.chain.HEAD", HEAD.__class__(**{**vars(HEAD), "checksums": False})
    )
    chain.write(RELATION, torn(sound_pages(20), 7))
    chain.run()
    assert chain.check(DEEP).problems == []


def test_what_was_damaged_when_it_was_stored_is_stored_again_from_a_sound_server(
    chain: Checked,
) -> None:
    chain.write(RELATION, torn(sound_pages(20), 7))
    chain.run()
    chain.check(DEEP)
    chain.write(RELATION, sound_pages(20))
    chain.run()
    report = chain.check(DEEP)
    assert report.proved == (chain.made[1],)
    assert report.problems[0].flawed == (chain.made[0],)
