"""Looking into stored WAL: where is this transaction, what was committed last?

Answers cost a read of segments, so each question reads as few as it can: the last commit is
looked for from the end backwards, a transaction or restore point forwards from the backup from
which it would be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from pgkeep.errors import DamagedObject
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import segment_name, segment_start_lsn
from pgkeep.postgres.wal_record import TRANSACTION_ENDS, WalEvent
from pgkeep.postgres.wal_scan import WalScanner
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal import WalHeader, open_wal_object, read_wal_header
from pgkeep.storage.fallback import read_sound
from pgkeep.storage.interface import Store

_CHUNK = 4


class Segment(NamedTuple):
    """A stored segment: its timeline and its number."""

    timeline: int
    number: int


class WalTail(NamedTuple):
    """How stored WAL ends: the last record's start, and the ends of transactions near the end.

    ``commits`` are those of the last few segments that hold any.
    """

    last_record: Lsn | None
    commits: tuple[WalEvent, ...]

    @property
    def last_commit(self) -> datetime | None:
        """The latest moment at which a transaction ended."""
        return max((event.time for event in self.commits if event.time), default=None)


@dataclass
class WalReader:
    """Reads stored segments; keeps the last few, since questions overlap."""

    repository: Repository
    layout: Layout
    segment_size: int
    progress: Progress
    _kept: dict[str, bytes] = field(default_factory=dict)
    _headers: dict[Segment, WalHeader] = field(default_factory=dict)

    def name(self, segment: Segment) -> str:
        return segment_name(segment.timeline, segment.number, self.segment_size)

    def content(self, segment: Segment) -> bytes:
        """The plain bytes. Raises ``DamagedObject``, ``IdentityNeeded``, ``ObjectNotFound``."""
        name = self.name(segment)
        if name not in self._kept:
            while len(self._kept) * self.segment_size > (64 << 20):
                del self._kept[next(iter(self._kept))]
            self._kept[name] = read_wal_file(self.repository, self.layout, name)
            self.progress.note(f"looked into {name}")
        content = self._kept[name]
        if len(content) != self.segment_size:
            raise DamagedObject(
                f"The stored segment {name} has {len(content)} bytes instead of "
                f"{self.segment_size}.",
                remedy="Bring it back from a copy of the repository.",
            )
        return content

    def header(self, segment: Segment) -> WalHeader:
        """What is plain about a stored segment. May be called by many threads."""
        if segment not in self._headers:
            key = self.layout.wal_file(self.name(segment))
            keyring = self.repository.keyring
            self._headers[segment] = read_sound(
                self.repository.store, key, lambda store: read_wal_header(store, key, keyring)
            )
        return self._headers[segment]

    def scanner(self, segment: Segment) -> WalScanner:
        start = segment_start_lsn(segment.number, self.segment_size)
        return WalScanner(start, segment_size=self.segment_size)


def read_wal_file(repository: Repository, layout: Layout, name: str) -> bytes:
    """The plain bytes of any stored WAL file. Raises ``ObjectNotFound``, ``DamagedObject``."""
    key = layout.wal_file(name)

    def read(store: Store) -> bytes:
        _, frames = open_wal_object(store.get(key), key, repository.keyring)
        return b"".join(frames)

    return read_sound(repository.store, key, read)


def look_at_tail(reader: WalReader, way: Sequence[Segment]) -> WalTail:
    """How the WAL on a way (consecutive segments) ends."""
    last_record: Lsn | None = None
    end = len(way)
    while end > 0:
        start = max(0, end - _CHUNK)
        limit = segment_start_lsn(way[end - 1].number + 1, reader.segment_size)
        scanner = reader.scanner(way[start])
        events: list[WalEvent] = []
        # One segment more, for a record that begins before the limit and ends behind it.
        for segment in way[start : end + 1]:
            events += scanner.feed(reader.content(segment))
        last_record = last_record or scanner.last_record
        commits = tuple(e for e in events if e.kind in TRANSACTION_ENDS and e.lsn < limit)
        if commits and last_record is not None:
            return WalTail(last_record, commits)
        end = start
    return WalTail(last_record, ())


def find_event(
    reader: WalReader, way: Sequence[Segment], wanted: Callable[[WalEvent], bool]
) -> WalEvent | None:
    """The first event on the way that is wanted."""
    return next((event for event in events_on(reader, way) if wanted(event)), None)


def events_on(reader: WalReader, way: Sequence[Segment]) -> Iterator[WalEvent]:
    """All events on a way, in order."""
    if not way:
        return
    scanner = reader.scanner(way[0])
    for segment in way:
        yield from scanner.feed(reader.content(segment))
        if scanner.ended:
            return
