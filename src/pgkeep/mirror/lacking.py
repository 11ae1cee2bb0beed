"""Which backups one repository lists and another lacks, as their listings tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgkeep.mirror.listing import holdings
from pgkeep.mirror.member import Member
from pgkeep.repository.layout import Layout


class Lack(NamedTuple):
    """A backup that ``member`` lacks and ``others`` have."""

    member: Member
    backup: str
    others: tuple[Member, ...]

    def __str__(self) -> str:
        have = ", ".join(str(one) for one in self.others)
        return f"{self.member} lacks backup {self.backup}, which {have} has"


def lacking_backups(members: Sequence[Member], layouts: Sequence[Layout]) -> list[Lack]:
    """Each backup that is in some of them and not in all, oldest first.

    A backup that a repository declared void, it does not lack. Raises what the stores raise.
    """
    found = []
    for layout in layouts:
        have = [holdings(member, layout) for member in members]
        there = [one.backups(layout) for one in have]
        for backup in sorted(set().union(*there)):
            others = tuple(m for m, names in zip(members, there, strict=True) if backup in names)
            found += [
                Lack(member, backup, others)
                for member, names, one in zip(members, there, have, strict=True)
                if backup not in names and backup not in one.voids
            ]
    return found
