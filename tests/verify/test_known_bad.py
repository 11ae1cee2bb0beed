"""What is known to be bad stays a problem until it is mended, gone, or needed by nobody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pgkeep.repository.checks import DEEP, LEVELS, QUICK, SCRUB
from pgkeep.repository.wal import build_wal_object
from pgkeep.seal.keyring import Keyring
from tests.backup.chain import RELATION
from tests.repository.kit import AT, LAYOUT
from tests.verify.kit import PAGE, SEGNO, Checked, check, keys

SEGMENT = LAYOUT.wal_file(f"0000000100000000{SEGNO:08X}")


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Checked:
    made = Checked(tmp_path, sealed=request.param)
    made.write("first", os.urandom(64 * PAGE))
    made.run()
    return made


def put_torn_segment(chain: Checked, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """WAL that is not what its header says, in an object whose own hash is right."""

    def other_hash(*_: Any) -> str:
        return "00" * 32

    with monkeypatch.context() as patched:
        patched.setattr("pgkeep.repository.wal.salted_hash", other_hash)
        data = build_wal_object(
            chain.repository.keyring,
            os.urandom(64),
            name=SEGMENT.rpartition("/")[2],
            kind="segment",
            modified=AT,
            pushed=AT,
            host="test",
        )
    return chain.replace(SEGMENT, bytes(data))


def test_a_scrub_does_not_clear_what_only_a_deep_check_sees(
    chain: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chain.check(SCRUB).problems == []
    good = put_torn_segment(chain, monkeypatch)
    assert chain.check(SCRUB).problems == []
    for level in (DEEP, SCRUB, QUICK, SCRUB):
        report = chain.check(level)
        assert keys(report) == {SEGMENT}, level
        assert report.broken == tuple(chain.made)
    verdict = chain.history.of_backup(chain.made[0])
    assert verdict is not None
    assert not verdict.is_good
    chain.replace(SEGMENT, good)
    assert chain.check(SCRUB).problems == []
    assert not chain.history.bad


def test_who_cannot_open_it_does_not_clear_it(
    chain: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = put_torn_segment(chain, monkeypatch)
    chain.check(DEEP)
    chain.replace(SEGMENT, good)
    keyring = chain.repository.keyring
    if not keyring.sealed:
        return
    host = chain.repository._replace(
        keyring=Keyring(
            keyring.repository_id,
            repository_public=keyring.repository_public,
            metadata_public=keyring.metadata_public,
            metadata_secrets=keyring._metadata_secrets,
        )
    )
    assert keys(check(host, SCRUB)) == {SEGMENT}
    assert chain.check(QUICK).problems == []
    assert check(host, SCRUB).problems == []


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_scrub_found_is_read_again_by_every_check(chain: Checked, level: str) -> None:
    pack = chain.packs()[0]
    good = chain.flip(pack)
    assert keys(chain.check(SCRUB)) == {pack}
    assert keys(chain.check(level)) == {pack}
    assert keys(chain.check(QUICK)) == {pack}
    chain.replace(pack, good)
    report = chain.check(level)
    assert report.problems == []
    assert report.proved == tuple(chain.made)
    assert not chain.history.bad
    assert not chain.history.broken


def test_what_was_found_by_a_sample_is_known_to_all_that_follow(chain: Checked) -> None:
    """Also to those that read other objects."""
    pack = chain.packs()[0]
    chain.flip(pack)
    for _ in range(20):
        report = chain.check(SCRUB, share=0.1)
        if pack in keys(report):
            break
    assert keys(chain.check(SCRUB, share=0.1)) == {pack}
    assert keys(chain.check(DEEP, share=0.1)) == {pack}


def test_what_nobody_needs_any_more_is_no_problem_but_a_backup_takes_nothing_from_it(
    chain: Checked,
) -> None:
    pack = chain.packs()[0]
    chain.flip(pack)
    chain.check(SCRUB)
    chain.write(RELATION, os.urandom(4 * PAGE))
    chain.run(full=True)
    old = chain.made[0]
    chain.stored.delete([LAYOUT.manifest(old), LAYOUT.manifest_copy(old)])
    for level in (QUICK, SCRUB):
        report = chain.check(level)
        assert report.problems == []
        assert any(pack in note for note in report.notes)
    assert pack in chain.history.bad
    assert old not in chain.history.proved


def test_a_bad_pack_that_is_gone_is_missing_and_not_bad(chain: Checked) -> None:
    pack = chain.packs()[0]
    chain.flip(pack)
    chain.check(SCRUB)
    chain.stored.delete([pack])
    (problem,) = chain.check(QUICK).problems
    assert (problem.key, problem.what) == (pack, "is missing")
    assert pack not in chain.history.bad
