"""Which packs the listed backups need, and which backups need a pack.

Hundreds of thousands of packs are held as one number and 40 bytes each. Which backups a bad one
breaks is asked of the manifests again, and only when there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from pgkeep.errors import DamagedObject, NoSuchBackup, WrongIdentity
from pgkeep.repository.catalogue import Backup, load_manifest
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack import PackInfo

_UNREADABLE = (DamagedObject, WrongIdentity, NoSuchBackup)


class Unreadable(NamedTuple):
    """A listed backup whose manifest cannot be read as a whole."""

    backup: Backup
    error: Exception


class Needs:
    """``unreadable`` are backups of which it is not known what they need."""

    def __init__(self, repository: Repository, layout: Layout) -> None:
        self._repository, self._layout = repository, layout
        self._attempts: dict[str, int] = {}
        self._packs: dict[int, bytes] = {}
        self._backups: list[Backup] = []
        self.unreadable: list[Unreadable] = []

    def add(self, backup: Backup) -> bool:
        """Take in what a backup names; False when its manifest cannot be read."""
        try:
            for info in self._packs_of(backup):
                attempt = self._attempts.setdefault(info.attempt, len(self._attempts))
                facts = info.size_bytes.to_bytes(8, "big") + info.blake3
                self._packs[attempt << 32 | info.number] = facts
        except _UNREADABLE as error:
            self.unreadable.append(Unreadable(backup, error))
            return False
        self._backups.append(backup)
        return True

    def __len__(self) -> int:
        return len(self._packs)

    def expected(self, key: str) -> tuple[int, bytes] | None:
        """Size and hash that a manifest gives for a pack; None if none names it."""
        attempt, _, number = key[len(self._layout.packs) :].partition("/")
        index = self._attempts.get(attempt)
        if index is None or not (number.isascii() and number.isdecimal()):
            return None
        facts = self._packs.get(index << 32 | int(number))
        return None if facts is None else (int.from_bytes(facts[:8], "big"), facts[8:])

    def named(self) -> Iterator[str]:
        """Every pack that is needed."""
        names = list(self._attempts)
        for packed in self._packs:
            yield self._layout.pack(names[packed >> 32], packed & 0xFFFFFFFF)

    def backups_of(self, keys: Collection[str]) -> dict[str, list[str]]:
        """For each of these packs the backups that need it, oldest first."""
        found: dict[str, list[str]] = {key: [] for key in keys}
        for backup in self._backups if found else ():
            try:
                for info in self._packs_of(backup):
                    key = info.key(self._layout)
                    if key in found:
                        found[key].append(backup.id)
            except _UNREADABLE:
                continue
        return found

    def _packs_of(self, backup: Backup) -> list[PackInfo]:
        manifest = load_manifest(self._repository, self._layout, backup)
        try:
            return list(manifest.packs().values())
        finally:
            manifest.close()
