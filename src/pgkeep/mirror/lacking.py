"""What one repository lists and another lacks, as their listings tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pgkeep.errors import ObjectNotFound
from pgkeep.mirror.listing import Holdings, holdings, segment_size_of
from pgkeep.mirror.member import Member
from pgkeep.postgres.wal_name import MAX_SEGMENT_SIZE
from pgkeep.repository.layout import Layout
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.fallback import FallbackStore
from pgkeep.storage.interface import Store

_ON_ITS_WAY = timedelta(minutes=10)
"""WAL that another repository has had for less than this may be on its way."""


class Lack(NamedTuple):
    """What ``member`` lacks and ``others`` have: a backup, or ``files`` WAL files (0: a backup), of
    which ``name`` is the first."""

    member: Member
    name: str
    others: tuple[Member, ...]
    files: int = 0

    def __str__(self) -> str:
        have = ", ".join(str(one) for one in self.others)
        verb = "has" if len(self.others) == 1 else "have"
        what = f"backup {self.name}"
        if self.files:
            what = f"WAL file {self.name}"
        if self.files > 1:
            what = f"{self.files} WAL files from {self.name} on"
        return f"{self.member} lacks {what}, which {have} {verb}"


def lacking(
    members: Sequence[Member], layouts: Sequence[Layout], keyring: Keyring, *, now: datetime
) -> list[Lack]:
    """Each backup, and the WAL, that is in some of them and not in all.

    A backup that a repository declared void, and WAL that it has given up, it does not lack. Raises
    what the stores raise.
    """
    found: list[Lack] = []
    for layout in layouts:
        have = {member: holdings(member, layout) for member in members}
        found += _backups(have, layout)
        found += _wal(have, keyring, now=now)
    return found


def _backups(have: Mapping[Member, Holdings], layout: Layout) -> Iterator[Lack]:
    there = {member: one.backups(layout) for member, one in have.items()}
    for backup in sorted(set().union(*there.values())):
        others = tuple(member for member, names in there.items() if backup in names)
        for member, one in have.items():
            if backup not in there[member] and backup not in one.voids:
                yield Lack(member, backup, others)


def _wal(have: Mapping[Member, Holdings], keyring: Keyring, *, now: datetime) -> Iterator[Lack]:
    everything = set().union(*(one.wal for one in have.values()))
    if all(len(one.wal) == len(everything) for one in have.values()):
        return
    anywhere = FallbackStore([member.store for member in have])
    size = segment_size_of(anywhere, have.values(), keyring, default=MAX_SEGMENT_SIZE)
    for member, one in have.items():
        lacks = sorted(key for key in everything - one.wal.keys() if not one.gave_up(key, size))
        if lacks and _is_due(anywhere, lacks[0], now):
            others = tuple(other for other, its in have.items() if lacks[0] in its.wal)
            yield Lack(member, lacks[0].rpartition("/")[2], others, len(lacks))


def _is_due(store: Store, key: str, now: datetime) -> bool:
    try:
        return now - store.head(key).modified > _ON_ITS_WAY
    except ObjectNotFound:
        return False  # given up since it was listed
