"""A small cluster's backups in memory, and ways to check them; no server is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgkeep.progress import Silent
from pgkeep.repository.check_records import read_checks
from pgkeep.repository.checks import CheckHistory
from pgkeep.repository.identity import Repository
from pgkeep.storage.interface import Store
from pgkeep.verify.run import VerifyOptions, VerifyReport, verify
from tests.backup.chain import Chain
from tests.postgres.pages import sound_page
from tests.repository.kit import BY, LAYOUT, put_segment

PAGE = 8192
SEGNO = 3


def sound_pages(count: int, *, first: int = 0, seed: int = 0) -> bytes:
    """Pages as a server writes them, from a block on."""
    return b"".join(
        sound_page(PAGE, block, seed=seed + block) for block in range(first, first + count)
    )


def check(
    repository: Repository, level: str, *, progress: Silent | None = None, **options: Any
) -> VerifyReport:
    made = VerifyOptions(level, BY, **options)
    return verify(repository, LAYOUT, made, progress=progress or Silent())


def keys(report: VerifyReport) -> set[str]:
    return {problem.key for problem in report.problems}


@dataclass
class Checked(Chain):
    """A chain of backups with the WAL that they need, and ``check`` for it."""

    checksums: bool = False  # of the copy: a test damages pages that it must not see
    settled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        put_segment(self.repository, 1, SEGNO)

    @property
    def stored(self) -> Store:
        return self.repository.store

    @property
    def history(self) -> CheckHistory:
        return read_checks(self.repository, LAYOUT)

    def check(self, level: str, **options: Any) -> VerifyReport:
        return check(self.repository, level, **options)

    def replace(self, key: str, data: bytes) -> bytes:
        """What a fault of the store leaves under a key; returns what was there."""
        before = self.stored.get(key)
        self.stored.delete([key])
        self.stored.put(key, data)
        return before

    def flip(self, key: str, at: int | None = None) -> bytes:
        data = bytearray(self.stored.get(key))
        data[len(data) // 2 if at is None else at] ^= 1
        return self.replace(key, bytes(data))

    def packs(self) -> list[str]:
        return [info.key for info in self.stored.list(LAYOUT.packs)]


def checked(tmp_path: Path, **options: Any) -> Checked:
    return Checked(tmp_path, **options)
