"""Repositories of every format that was ever released restore, and PostgreSQL starts on them.

They were made once (``tests/golden/make.py``) and never change. What fails here would fail for
everybody who has a repository.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkeep.progress import Silent
from pgkeep.repository.catalogue import list_backups
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import Repository, Unlock, open_repository
from pgkeep.repository.layout import Layout
from pgkeep.restore.plan import FetchAccess, RestoreOptions
from pgkeep.restore.run import plan_restore, run_restore
from pgkeep.restore.target import AskedTarget, immediate, latest
from pgkeep.storage.local import LocalStore
from tests.backup.format_reader import ReadBackup
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.installations import find_installations, why_missing
from tests.program import pgkeep_program
from tests.restore.verifybackup import verify_backup
from tests.servers import new_directory

GOLDEN = sorted(Path(__file__).parent.glob("golden/format-*/*"))


class Golden:
    """One of them, copied to where a server can read it."""

    def __init__(self, folder: Path) -> None:
        self.root = new_directory()
        self.expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
        self._place = self.root / "repository"
        shutil.copytree(folder / "repository", self._place)
        for path in (self._place, *self._place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        key = folder / "identity.txt"
        self.identity = key.read_text().strip() if key.exists() else ""
        (self.root / "identity").write_text(self.identity)
        self.store = LocalStore(self._place)
        (system,) = {
            info.key.split("/")[1] for info in self.store.list("main/") if "/wal/" in info.key
        }
        self.layout = Layout("main", int(system))

    @property
    def repository(self) -> Repository:
        unlock = Unlock([self.identity]) if self.identity else Unlock()
        return open_repository(self.store, HostState(self.root / "state"), unlock=unlock)

    def restore(self, into: Path, *, backup: str | None, target: AskedTarget) -> None:
        options = RestoreOptions(into, target=target, backup=backup, wal="copied")
        settings = {"repo": f"file://{self._place}", "cluster": "main"}
        access = FetchAccess((str(pgkeep_program()),), settings, self.root / "identity")
        arguments = (self.repository, self.layout)
        plan = plan_restore(*arguments, options, access=access, progress=Silent())
        run_restore(*arguments, plan, access=access, progress=Silent())


@pytest.fixture(params=GOLDEN, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    found = Golden(request.param)
    yield found
    shutil.rmtree(found.root)


def test_there_is_one_of_each_format_sealed_and_not() -> None:
    assert {folder.name for folder in GOLDEN} == {"postgresql-15-none", "postgresql-18-age"}


def test_a_stranger_can_read_every_backup(golden: Golden) -> None:
    for backup in golden.expected["backups"]:
        ReadBackup(
            golden.store, golden.layout.root, backup, identity=golden.identity
        ).check_everything()


@pytest.mark.server
def test_every_backup_restores_and_starts(golden: Golden) -> None:
    installation = find_installations().get(golden.expected["major"])
    if installation is None:
        pytest.skip(why_missing(golden.expected["major"]))
    wanted = golden.expected["backups"]
    assert [backup.id for backup in list_backups(golden.repository, golden.layout)] == [*wanted]
    cases: list[tuple[str | None, AskedTarget, Any]] = [
        (backup, immediate(), digest) for backup, digest in wanted.items()
    ]
    for backup, target, digest in [*cases, (None, latest(), golden.expected["latest"])]:
        factory = ServerFactory(installation)
        into = new_directory() / "data"
        try:
            golden.restore(into, backup=backup, target=target)
            verify_backup(installation, into)
            server = factory.adopt(into).start()
            server.wait_recovery_end()
            assert_same_digest(cluster_digest(server), digest)
        finally:
            factory.close()
            shutil.rmtree(into.parent, ignore_errors=True)
