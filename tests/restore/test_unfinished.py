"""What a restore that was broken off left is gone on with by the same command, and by one only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pgkeep.errors import DirectoryNotEmpty, RestoreError
from pgkeep.progress import Silent
from pgkeep.restore import unfinished
from pgkeep.restore.destination import check_empty
from pgkeep.restore.reuse import check_reusable
from pgkeep.restore.run import run_restore
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup

SYSTEM = 7_000_000_000_000_000_000


def begin(into: Path, *, into_empty: bool = True) -> int:
    return unfinished.begin(into, SYSTEM, lambda _: None, into_empty=into_empty)


def test_two_restores_do_not_write_into_one_directory(tmp_path: Path) -> None:
    handle = begin(tmp_path)
    for call in (
        lambda: begin(tmp_path),
        lambda: unfinished.check_idle(tmp_path),
        lambda: check_reusable(tmp_path, SYSTEM),
    ):
        with pytest.raises(RestoreError, match="is running"):
            call()
    assert unfinished.can_go_on(tmp_path, SYSTEM)
    os.close(handle)
    check_reusable(tmp_path, SYSTEM)
    os.close(begin(tmp_path))


def test_what_was_begun_where_nothing_stood_goes_on_by_itself(tmp_path: Path) -> None:
    os.close(begin(tmp_path))
    assert unfinished.can_go_on(tmp_path, SYSTEM)
    assert not unfinished.can_go_on(tmp_path, SYSTEM + 1)
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control").touch()
    assert not unfinished.can_go_on(tmp_path, SYSTEM)


def test_what_was_begun_over_a_cluster_wants_to_be_told_again(tmp_path: Path) -> None:
    os.close(begin(tmp_path, into_empty=False))
    assert not unfinished.can_go_on(tmp_path, SYSTEM)
    with pytest.raises(DirectoryNotEmpty, match="--delta must be given to go on"):
        check_empty(tmp_path)
    check_reusable(tmp_path, SYSTEM)


def test_a_restore_killed_at_its_first_and_last_step_is_known(tmp_path: Path) -> None:
    (tmp_path / unfinished.UNFINISHED_MARK).touch()
    assert unfinished.can_go_on(tmp_path, SYSTEM)
    check_reusable(tmp_path, SYSTEM)
    (tmp_path / "precious").touch()
    assert not unfinished.can_go_on(tmp_path, SYSTEM)
    (tmp_path / unfinished.UNFINISHED_MARK).unlink()
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control.pgkeep-unfinished").touch()
    assert unfinished.can_go_on(tmp_path, SYSTEM)


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_who_comes_when_another_restore_has_ended_leaves_no_mark(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found the directory empty."""
    site.backup()
    late, begin = site.plan(), unfinished.begin

    def begin_late(*args: Any, **options: Any) -> int:
        monkeypatch.setattr(unfinished, "begin", begin)
        site.restore()
        return begin(*args, **options)

    monkeypatch.setattr(unfinished, "begin", begin_late)
    with pytest.raises(DirectoryNotEmpty):
        run_restore(site.repository, site.layout, late, access=site.access, progress=Silent())
    into = site.root / "back"
    assert not (into / unfinished.UNFINISHED_MARK).exists()
    verify_backup(site.server.installation, into)
