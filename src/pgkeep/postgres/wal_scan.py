"""Reading WAL just deep enough to know where recovery can stop.

A restore must answer before it begins: is there a commit after this moment, where is this
transaction, where is this restore point? PostgreSQL answers by failing hours later ("recovery
ended before configured recovery target was reached"). So this module walks the chain of
records: lengths, back links, and the few records at which recovery can stop or that end a
segment. It does not understand what any other record does.

Pure: bytes of whole, consecutive segments in, events out. Page headers: ``xlog_internal.h``; the
walk is that of ``XLogReadRecord`` in ``xlogreader.c``; what records hold is in ``wal_record.py``.

Page headers are cut out first, with numpy, after which a segment is one stream in which
records lie end to end, at multiples of eight. That makes the walk four steps a record, at some
hundred MB/s; a record that spans pages needs no care. WAL ends where a length is zero, a back
link is wrong, a page is not the one that belongs there, or a checksum (looked at only where an
event or the end depends on it) does not match.
"""

from __future__ import annotations

import struct
from typing import Any

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.segment import (
    FIRST_IS_CONTRECORD,
    FIRST_IS_OVERWRITE_CONTRECORD,
    HEADER_SIZE,
    parse_segment_header,
)
from pgkeep.postgres.wal_record import (
    MANAGERS,
    RECORD_HEADER_SIZE,
    RM_XLOG,
    SWITCH,
    WalEvent,
    event_of,
    is_sound,
)

_SHORT_HEADER = 24
_HEAD = struct.Struct("<IIQBB")  # xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid
_LONGEST_RECORD = 1020 << 20  # XLogRecordMaxSize
_PIECE_BYTES = 8 << 20


class WalScanner:
    """Takes consecutive segments, whole, and yields the events in them.

    ``start`` is the position of the first segment's first byte. A record that begins in one
    segment and ends in the next is reported when the second is fed.
    """

    def __init__(self, start: Lsn, *, segment_size: int) -> None:
        self._start = int(start)
        self._segment_size = segment_size
        self._block = 0
        self._major: int | None = None
        self._magic = 0
        self._received = 0
        self._stream = b""
        self._at = 0  # of the stream's first byte, counted from the first segment's stream
        self._fed = 0
        self._skip: int | None = None
        self._resets: list[int] = []
        self._previous: int | None = None
        self.last_record: Lsn | None = None
        self.ended = False

    @property
    def end(self) -> Lsn:
        """Where the next record would begin, as far as segments were fed."""
        return self._lsn(self._at) if self._block else Lsn(self._start)

    def feed(self, segment: bytes) -> list[WalEvent]:
        """The events of one more segment; none once WAL has ended (``ended``).

        Raises ``ForeignWal`` for bytes too short to be one.
        """
        if self.ended:
            return []
        header = parse_segment_header(segment)
        if not self._block:
            self._block, self._major, self._magic = header.block_size, header.major, header.magic
            if header.block_size < 1024 or self._segment_size % header.block_size:
                self.ended = True
                return []
        events = []
        # Piece by piece, since a segment may have a gibibyte.
        for start in range(0, self._segment_size, _PIECE_BYTES):
            if not self.ended:
                self._stream += self._payload(segment[start : start + _PIECE_BYTES], start)
                events += self._walk()
        self._fed += 1
        return events

    def _payload(self, piece: bytes, offset: int) -> bytes:
        """Pages without their headers; zeros from the first page that does not belong there."""
        import numpy as np

        pages = np.frombuffer(piece, dtype=np.uint8).reshape(-1, self._block)
        heads = pages[:, :_SHORT_HEADER].copy().view(_page_header_type())[:, 0]
        base = self._start + self._fed * self._segment_size + offset
        expected = base + np.arange(len(pages), dtype=np.uint64) * np.uint64(self._block)
        bad = np.flatnonzero((heads["address"] != expected) | (heads["magic"] != self._magic))
        good = int(bad[0]) if len(bad) else len(pages)
        width = self._block - _SHORT_HEADER
        # The first page of a segment has a longer header.
        longer = 0 if offset else HEADER_SIZE - _SHORT_HEADER
        self._note_pages(heads[:good], longer)
        body = pages[:good, _SHORT_HEADER:].tobytes()[longer:]
        whole = len(pages) * width - longer
        self._received += whole
        return body + bytes(whole - len(body))

    def _note_pages(self, heads: Any, longer: int) -> None:
        if len(heads) and self._skip is None:
            first = int(heads["info"][0])
            continued = bool(first & FIRST_IS_CONTRECORD)
            self._skip = _aligned(int(heads["rest"][0])) if continued else 0
        width = self._block - _SHORT_HEADER
        for page in (heads["info"] & FIRST_IS_OVERWRITE_CONTRECORD).nonzero()[0]:
            self._resets.append(self._received + (int(page) * width - longer if page else 0))

    @property
    def _payload_size(self) -> int:
        pages = self._segment_size // self._block
        return pages * (self._block - _SHORT_HEADER) - (HEADER_SIZE - _SHORT_HEADER)

    def _lsn(self, at: int) -> Lsn:
        """The position in the WAL of a byte of the stream."""
        segment, rest = divmod(at, self._payload_size)
        page, inside = divmod(rest + HEADER_SIZE - _SHORT_HEADER, self._block - _SHORT_HEADER)
        base = self._start + segment * self._segment_size + page * self._block
        return Lsn(base + inside + _SHORT_HEADER)

    def _walk(self) -> list[WalEvent]:
        stream, position, events = self._stream, 0, list[WalEvent]()
        before, last = self.last_record, slice(0, 0)
        if self._skip:
            position = min(self._skip, len(stream))
            self._skip -= position
        while position + RECORD_HEADER_SIZE <= len(stream):
            total, xid, previous, info, manager = _HEAD.unpack_from(stream, position)
            reset = self._reset_inside(position, total)
            if reset is not None:
                position, self._previous = reset, None
                continue
            if not self._plausible(total, previous):
                self.ended = True
                break
            if position + total > len(stream):
                break
            if manager in MANAGERS:
                record = stream[position : position + total]
                lsn = self._lsn(self._at + position)
                event = event_of(
                    record, lsn, info=info, manager=manager, xid=xid, major=self._major
                )
                if event is not None and not is_sound(record):
                    self.ended = True
                    break
                if event is not None:
                    events.append(event)
            before, self.last_record = self.last_record, self._lsn(self._at + position)
            last, self._previous = slice(position, position + total), int(self.last_record)
            position = _aligned(position + total)
            if manager == RM_XLOG and info & 0xF0 == SWITCH:
                position = self._next_segment(position)
        if self.ended and last.stop and not is_sound(stream[last]):
            self.last_record = before
        if position > len(stream):  # the rest of a segment after a switch
            self._skip, position = position - len(stream), len(stream)
        self._stream = stream[position:]
        self._at += position
        return events

    def _plausible(self, total: int, previous: int) -> bool:
        fits = RECORD_HEADER_SIZE <= total <= _LONGEST_RECORD
        return fits and (self._previous is None or previous == self._previous)

    def _reset_inside(self, position: int, total: int) -> int | None:
        """Where an aborted record's place was taken over, if this record would reach over it."""
        here = self._at + position
        while self._resets and self._resets[0] <= here:
            self._resets.pop(0)
        if self._resets and self._resets[0] < here + max(total, RECORD_HEADER_SIZE):
            return self._resets.pop(0) - self._at
        return None

    def _next_segment(self, position: int) -> int:
        size = self._payload_size
        return -(-(self._at + position) // size) * size - self._at


_page_type: Any = None


def _page_header_type() -> Any:
    """``XLogPageHeaderData`` as a numpy type."""
    global _page_type
    if _page_type is None:
        import numpy as np

        fields = [("magic", "<u2"), ("info", "<u2"), ("timeline", "<u4"), ("address", "<u8")]
        _page_type = np.dtype([*fields, ("rest", "<u4"), ("padding", "<u4")])
    return _page_type


def _aligned(length: int) -> int:
    return (length + 7) & ~7
