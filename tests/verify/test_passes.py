"""A pass over all objects, in however many runs, proves what was there all along and sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.errors import StoreUnavailable
from pgkeep.progress import Silent
from pgkeep.repository.checks import DEEP, QUICK, SCRUB
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import LAYOUT, put_segment
from tests.verify.kit import PAGE, Checked, check, keys

SHARE = 0.1


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def chain(tmp_path: Path, store: FaultyStore) -> Checked:
    made = Checked(tmp_path, sealed=True, store=store)
    made.write("first", os.urandom(64 * PAGE))
    made.run()
    for segno in range(4, 12):
        put_segment(made.repository, 1, segno)
    return made


def parts(chain: Checked, level: str = SCRUB) -> Iterator[tuple[str, ...] | None]:
    """A pass, run by run: None, and at last what was proved."""
    for _ in range(60):
        report = chain.check(level, share=SHARE)
        yield report.proved if report.round_done else None
        if report.round_done:
            return
    raise AssertionError("it never ends")


def test_a_backup_that_came_while_the_pass_was_under_way_is_not_proved_by_it(
    chain: Checked,
) -> None:
    run = parts(chain)
    assert next(run) is None
    chain.write("second", os.urandom(64 * PAGE))
    chain.run()
    *_, proved = run
    assert proved == (chain.made[0],)
    *_, proved = parts(chain)
    assert proved == tuple(chain.made)


def test_a_backup_that_was_broken_in_a_part_is_not_proved_by_that_pass(chain: Checked) -> None:
    pack = chain.packs()[0]
    good = chain.flip(pack)
    seen = []
    for _ in range(60):
        report = chain.check(SCRUB, share=SHARE)
        seen.append(report)
        if pack in keys(report):
            chain.replace(pack, good)
        if report.round_done:
            break
    assert any(keys(report) == {pack} for report in seen)
    assert seen[-1].round_done
    assert not seen[-1].problems
    assert seen[-1].proved == ()
    *_, proved = parts(chain)
    assert proved == tuple(chain.made)


def test_a_scrub_and_a_deep_check_go_on_each_by_itself(chain: Checked) -> None:
    scrub = chain.check(SCRUB, share=0.5)
    assert not scrub.round_done
    assert chain.check(DEEP).proved == tuple(chain.made)
    again = chain.check(SCRUB, share=0.01)
    assert scrub.read is not None
    assert again.after == scrub.read.until


def test_without_keys_a_scrub_goes_on_where_one_without_keys_ended(chain: Checked) -> None:
    keyring = chain.repository.keyring
    stranger = chain.repository._replace(
        keyring=Keyring(
            keyring.repository_id,
            repository_public=keyring.repository_public,
            metadata_public=keyring.metadata_public,
        )
    )
    place = ""
    for _ in range(60):
        report = check(stranger, SCRUB, share=SHARE)
        assert report.read is not None
        assert report.after == place
        place = report.read.until or ""
        if report.round_done:
            break
    assert report.round_done
    assert report.proved == ()


def test_a_pass_of_many_hands_proves_what_the_first_saw(chain: Checked) -> None:
    """A part by a host without keys takes nothing from it."""
    keyring = chain.repository.keyring
    stranger = chain.repository._replace(
        keyring=Keyring(
            keyring.repository_id,
            repository_public=keyring.repository_public,
            metadata_public=keyring.metadata_public,
        )
    )
    chain.check(SCRUB, share=SHARE)
    assert not check(stranger, SCRUB, share=0.001).round_done
    *_, proved = parts(chain)
    assert proved == tuple(chain.made)


class _Ticking:
    """A clock on which each look takes a minute."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 60
        return self.now


def test_a_long_check_is_recorded_in_parts(chain: Checked) -> None:
    before = len([*chain.stored.list(LAYOUT.checks)])
    report = chain.check(SCRUB, part_seconds=300, clock=_Ticking())
    made = len([*chain.stored.list(LAYOUT.checks)]) - before
    assert made > 1
    assert report.round_done
    assert report.after == ""
    assert report.proved == tuple(chain.made)
    assert chain.history.passes[SCRUB].until is None


def test_a_part_that_is_recorded_is_not_read_again_after_a_kill(
    chain: Checked, store: FaultyStore
) -> None:
    """As SIGKILL: nothing of the last part is recorded, and nothing is cleaned up."""
    everything = check(chain.repository, SCRUB).read
    assert everything is not None

    class Killed(BaseException):
        pass

    class Watch(Silent):
        def advance(self, size_bytes: int) -> None:
            if len([*chain.stored.list(LAYOUT.checks)]) > 2:
                store.fail(Fault(Failure.DENIED, "put", times=None))
                raise Killed

    with pytest.raises(Killed):
        chain.check(SCRUB, part_seconds=300, clock=_Ticking(), progress=Watch())
    store.heal()
    place = chain.history.passes[SCRUB]
    assert place.stopped
    report = chain.check(SCRUB)
    assert report.after == place.until != ""
    assert report.round_done
    assert report.proved == tuple(chain.made)
    assert report.read is not None
    assert report.read.objects < everything.objects
    assert chain.check(SCRUB).after == ""  # that pass is through


@pytest.mark.parametrize("level", [SCRUB, DEEP])
def test_an_interrupted_check_goes_on_where_it_was(chain: Checked, level: str) -> None:
    pack = chain.packs()[0]
    good = chain.flip(pack)

    class Watch(Silent):
        objects = 0

        def advance(self, size_bytes: int) -> None:
            self.objects += 1
            if self.objects == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chain.check(level, progress=Watch())
    assert set(chain.history.bad) == {pack}
    assert chain.history.broken
    chain.replace(pack, good)
    report = chain.check(level)
    assert report.after > pack
    assert report.round_done
    assert report.proved == ()  # it was broken in a part of this pass
    assert chain.check(level).proved == tuple(chain.made)


def test_a_store_that_goes_away_in_the_middle_costs_only_what_was_in_flight(
    chain: Checked, store: FaultyStore
) -> None:
    chain.check(QUICK)
    wal = sorted(info.key for info in chain.stored.list(LAYOUT.wal))
    store.fail(Fault(Failure.UNAVAILABLE, "get", wal[4], times=None))
    with pytest.raises(StoreUnavailable, match=r"up to .* is recorded; the next run goes on"):
        chain.check(SCRUB)
    store.heal()
    place = chain.history.passes[SCRUB]
    assert place.until == wal[3]
    report = chain.check(SCRUB)
    assert report.after == wal[3]
    assert report.proved == tuple(chain.made)


def test_when_nothing_can_be_recorded_the_error_says_that(
    chain: Checked, store: FaultyStore
) -> None:
    wal = sorted(info.key for info in chain.stored.list(LAYOUT.wal))
    store.fail(Fault(Failure.UNAVAILABLE, "get", wal[4], times=None))
    store.fail(Fault(Failure.UNAVAILABLE, "put", times=None))
    with pytest.raises(StoreUnavailable, match="could not be recorded"):
        chain.check(SCRUB)
