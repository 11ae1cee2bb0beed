"""The trial of the restore command, which root makes as the owner."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pgkeep.restore.access import try_fetch
from pgkeep.restore.plan import Owner
from tests.server_user import server_user
from tests.servers import new_directory


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_is_given_nothing_but_the_trials_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is his, and he may be faster than we."""
    into, others = new_directory(), tmp_path / "others"
    control = into / "control"
    for path in (control, others):
        path.write_bytes(b"x")
    copy = shutil.copyfile

    def exchanged(source: Any, target: Any) -> None:
        copy(source, target)
        target.unlink()
        target.symlink_to(others)

    monkeypatch.setattr(shutil, "copyfile", exchanged)
    user = server_user()
    owner = Owner(user.uid, user.gid, user.name, change=True)
    said = try_fetch("false", into, control=control, segment="0" * 24, owner=owner)
    assert said == "nothing was said (exit code 1)"
    assert others.stat().st_uid == 0
