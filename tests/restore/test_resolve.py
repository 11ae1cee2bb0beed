"""What is not surely right is refused before anything is written, and the refusal says what is."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgkeep.errors import AmbiguousTimeline, IdentityNeeded, TargetNotReachable
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import segment_name
from pgkeep.postgres.wal_record import WalEvent, WalEventKind
from pgkeep.progress import Silent
from pgkeep.repository.identity import Repository, make_keyring
from pgkeep.repository.wal import build_wal_object
from pgkeep.restore import target
from pgkeep.restore.plan import Resolution, RestoreOptions
from pgkeep.restore.resolve import resolve
from pgkeep.units import from_utc_text
from tests.repository import kit

MIB = 1 << 20


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return kit.make_repository(tmp_path)[0]


def put(
    repository: Repository, timeline: int, *numbers: int, pushed: str = kit.AT, closed: str = kit.AT
) -> None:
    """Segments that hold nothing but a valid first page header."""
    for number in numbers:
        header = struct.pack(
            "<HHIQI4xQII", 0xD118, 2, timeline, number * MIB, 0, kit.SYSTEM, MIB, 8192
        )
        _put(
            repository,
            segment_name(timeline, number, MIB),
            header + bytes(MIB - len(header)),
            kind="segment",
            pushed=pushed,
            closed=closed,
        )


def put_history(
    repository: Repository, timeline: int, content: str, *, pushed: str = kit.AT
) -> None:
    name = f"{timeline:08X}.history"
    _put(repository, name, content.encode(), kind="history", pushed=pushed, closed=kit.AT)


def _put(
    repository: Repository, name: str, content: bytes, *, kind: str, pushed: str, closed: str
) -> None:
    data = build_wal_object(
        repository.keyring,
        content,
        name=name,
        kind=kind,
        modified=closed,
        pushed=pushed,
        host="test",
    )
    repository.store.put(kit.LAYOUT.wal_file(name), data)


def put_backup(repository: Repository, hour: int, segment: int, **changes: Any) -> str:
    """A backup that began and ended in one segment, at a full hour."""
    name = f"20261120T{hour:02d}0000Z"
    base = segment * MIB
    head = kit.head(name, f"0/{base + 40:X}", f"0/{base + 256:X}")
    moment = f"2026-11-20T{hour:02d}:00:00.000000Z"
    kit.put_backup(repository, replace(head, started=moment, ended=moment, **changes))
    return name


def at(hour: int, minute: int = 0) -> str:
    return f"2026-11-20T{hour:02d}:{minute:02d}:00.000000Z"


def find(repository: Repository, **options: object) -> Resolution:
    wanted = RestoreOptions(Path("/nowhere"), **options)  # type: ignore[arg-type]
    return resolve(repository, kit.LAYOUT, wanted, progress=Silent())


def test_without_a_backup_there_is_nothing_to_restore(repository: Repository) -> None:
    put(repository, 1, 3)
    with pytest.raises(TargetNotReachable, match="no backup"):
        find(repository)


def test_the_plan_names_all_wal_from_the_backups_start_to_the_end(repository: Repository) -> None:
    name = put_backup(repository, 10, 3)
    put(repository, 1, 2, 3, 4, 5)
    found = find(repository)
    assert found.backup.id == name
    assert (found.timeline, str(found.wal)) == (
        1,
        "000000010000000000000003-000000010000000000000005",
    )


def test_a_gap_is_refused_with_what_is_missing(repository: Repository) -> None:
    put_backup(repository, 10, 3)
    put(repository, 1, 3, 4, 7)
    with pytest.raises(TargetNotReachable) as caught:
        find(repository)
    assert caught.value.facts["missing_first"] == "000000010000000000000005"
    assert caught.value.facts["missing_last"] == "000000010000000000000006"
    assert "2 segments" in caught.value.what
    assert find(repository, target=target.immediate()).wal_files >= 1


def test_a_gap_before_the_newest_backup_harms_nobody_after_it(repository: Repository) -> None:
    put_backup(repository, 10, 3)
    newest = put_backup(repository, 12, 7)
    put(repository, 1, 3, 4, 7, 8)
    assert find(repository).backup.id == newest
    with pytest.raises(TargetNotReachable) as caught:
        find(repository, target=target.at_time(at(11), inclusive=True))
    # What can be reached instead: the newest backup's end.
    assert "12:00:00" in str(caught.value)


def test_a_backup_whose_own_wal_is_not_complete_is_never_used(repository: Repository) -> None:
    older = put_backup(repository, 10, 3)
    head = kit.head("20261120T120000Z", "0/500028", "0/700100")
    kit.put_backup(repository, replace(head, ended=at(12)))
    put(repository, 1, 3, 4, 5, 6)
    found = find(repository)
    assert found.backup.id == older
    assert any("cannot be used" in warning for warning in found.warnings)
    with pytest.raises(TargetNotReachable, match="cannot be used"):
        find(repository, backup="20261120T120000Z")


def test_a_good_backup_is_preferred_to_a_newer_damaged_one(repository: Repository) -> None:
    good = put_backup(repository, 10, 3)
    damaged = put_backup(repository, 12, 5, failed_pages=2)
    put(repository, 1, 3, 4, 5, 6)
    found = find(repository)
    assert found.backup.id == good
    assert not found.warnings
    by_name = find(repository, backup=damaged)
    assert by_name.backup.id == damaged
    assert "damaged" in by_name.warnings[0]


class TestTimelines:
    """Timeline 2 left timeline 1 within segment 5."""

    @pytest.fixture(autouse=True)
    def forked(self, repository: Repository) -> None:
        put_backup(repository, 10, 3)
        put(repository, 1, 3, 4, pushed=at(11))
        put_history(repository, 2, "1\t0/500100\tpromoted\n", pushed=at(12))

    def test_the_living_descendant_is_followed(self, repository: Repository) -> None:
        put(repository, 2, 5, 6, pushed=at(13))
        found = find(repository)
        assert found.timeline == 2
        assert str(found.wal) == (
            "000000010000000000000003-000000010000000000000004,"
            "000000020000000000000005-000000020000000000000006,00000002.history"
        )

    def test_several_living_ones_are_refused_with_the_list(self, repository: Repository) -> None:
        put(repository, 2, 5, 6, pushed=at(13))
        put(repository, 1, 5, 6, pushed=at(14))
        with pytest.raises(AmbiguousTimeline) as caught:
            find(repository)
        assert caught.value.exit_code == 22
        assert caught.value.facts["timelines"] == [1, 2]
        assert "which left timeline 1 at 0/500100" in str(caught.value)
        assert find(repository, timeline=1).wal_files == 4
        assert find(repository, timeline=2).timeline == 2

    def test_two_children_are_refused_with_the_list(self, repository: Repository) -> None:
        put(repository, 2, 5, pushed=at(13))
        put(repository, 3, 5, pushed=at(15))
        put_history(repository, 3, "1\t0/500200\tpromoted\n", pushed=at(14))
        with pytest.raises(AmbiguousTimeline) as caught:
            find(repository)
        assert caught.value.facts["timelines"] == [2, 3]

    def test_a_missing_history_is_an_error_never_an_older_timeline(
        self, repository: Repository
    ) -> None:
        put(repository, 3, 5, 6, pushed=at(15))
        for options in ({}, {"timeline": 3}):
            with pytest.raises(TargetNotReachable, match=r"00000003\.history"):
                find(repository, **options)
        assert find(repository, timeline=2).timeline == 2

    def test_an_unknown_timeline_is_refused(self, repository: Repository) -> None:
        with pytest.raises(TargetNotReachable, match="Nothing of timeline 9"):
            find(repository, timeline=9)

    def test_wal_up_to_the_fork_must_be_there(self, repository: Repository) -> None:
        put(repository, 2, 5, 6, pushed=at(13))
        repository.store.delete([kit.LAYOUT.wal_file(segment_name(1, 4, MIB))])
        with pytest.raises(TargetNotReachable) as caught:
            find(repository)
        assert caught.value.facts["missing_first"] == "000000010000000000000004"

    def test_what_the_old_server_wrote_after_the_fork_is_forbidden(
        self, repository: Repository
    ) -> None:
        """The child's first segment is not there yet: the parent's must not take its place."""
        put(repository, 1, 5, 6, pushed=at(14))
        plan = find(repository, timeline=2).wal
        assert str(plan) == "000000010000000000000003-000000010000000000000004,00000002.history"
        assert plan.forbids("000000010000000000000005")
        assert not plan.forbids("000000020000000000000005")
        assert not plan.forbids("000000010000000000000004")

    def test_a_backup_of_the_abandoned_branch_is_not_used(self, repository: Repository) -> None:
        abandoned = put_backup(repository, 13, 7)
        put(repository, 1, 5, 6, 7, pushed=at(11, 30))
        put(repository, 2, 5, 6, 7, pushed=at(13))
        found = find(repository)
        assert (found.timeline, found.backup.id) == (2, "20261120T100000Z")
        with pytest.raises(TargetNotReachable, match="not on the way"):
            find(repository, backup=abandoned, timeline=2)


def test_without_the_identity_it_is_said_at_once(tmp_path: Path) -> None:
    sealed, _ = kit.make_repository(tmp_path, sealed=True)
    locked = sealed._replace(keyring=make_keyring(sealed.identity))
    with pytest.raises(IdentityNeeded):
        find(locked)


class TestClocksThatWereSet:
    """The order of WAL decides, and never that of times or names."""

    @pytest.fixture
    def commits(self, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
        """Moments of commits, by the number of the segment that holds each."""
        found: dict[int, str] = {}

        def find(_: object, way: Any, wanted: Any) -> WalEvent | None:
            for segment in way:
                if segment.number in found:
                    lsn, moment = Lsn(segment.number * MIB + 64), found[segment.number]
                    event = WalEvent(WalEventKind.COMMIT, lsn, from_utc_text(moment), 7)
                    if wanted(event):
                        return event
            return None

        monkeypatch.setattr("pgkeep.restore.resolve.find_event", find)
        return found

    def last_segment(self, repository: Repository, moment: str) -> int:
        found = find(repository, target=target.at_time(moment, inclusive=True))
        return int(str(found.wal).rpartition("-")[2], 16) & 0xFF

    def test_the_plan_ends_at_the_first_commit_beyond_the_target(
        self, repository: Repository, commits: dict[int, str]
    ) -> None:
        """The clock ran ahead in segment 5, and was set back in 6; bisection stepped over it."""
        put_backup(repository, 10, 3)
        closed = {3: at(10), 4: at(11), 5: at(18), 6: at(12), 7: at(13), 8: at(14), 9: at(15)}
        for number, moment in closed.items():
            put(repository, 1, number, closed=moment)
            commits[number] = moment
        assert self.last_segment(repository, at(13, 30)) == 6  # the one after segment 5
        assert self.last_segment(repository, at(10, 30)) == 5

    def test_the_segment_in_which_the_clock_went_back_is_looked_into(
        self, repository: Repository, commits: dict[int, str]
    ) -> None:
        """It was closed early by the clock, and holds a commit that was late by it."""
        put_backup(repository, 10, 3)
        closed = {3: at(10), 4: at(12), 5: at(11), 6: at(12), 7: at(13), 8: at(14), 9: at(15)}
        for number, moment in closed.items():
            put(repository, 1, number, closed=moment)
            commits[number] = moment
        commits[5] = at(18)
        assert self.last_segment(repository, at(13, 30)) == 6

    def test_the_newest_backup_is_the_one_whose_wal_is_the_newest(
        self, repository: Repository
    ) -> None:
        """Made in a year that the clock made up, a backup stays older than those after it."""
        put_backup(repository, 20, 3)
        newest = put_backup(repository, 10, 5)
        put(repository, 1, 3, 4, 5, 6)
        assert find(repository).backup.id == newest
        assert find(repository, target=target.immediate()).backup.id == newest
