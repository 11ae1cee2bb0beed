"""Reading WAL just deep enough to know where recovery can stop.

A restore must answer before it begins: is there a commit after this moment, where is this
transaction, where is this restore point? PostgreSQL answers by failing hours later ("recovery
ended before configured recovery target was reached"). So this module walks the chain of
records: lengths, back links, and the few records at which recovery can stop or that end a
segment. It does not understand what any other record does.

Pure: bytes of whole, consecutive segments in, events out. Structures: ``xlog_internal.h`` (page
headers), ``xlogrecord.h`` (records), ``xact.h``, ``pg_control.h``, ``tablespace.h``; the walk
is that of ``XLogReadRecord`` in ``xlogreader.c``.

Page headers are cut out first, with numpy, after which a segment is one stream in which
records lie end to end, at multiples of eight. That makes the walk four steps a record, at some
hundred MB/s; a record that spans pages needs no care. WAL ends where a length is zero, a back
link is wrong, a page is not the one that belongs there, or a checksum (looked at only where an
event or the end depends on it) does not match.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.segment import (
    FIRST_IS_CONTRECORD,
    FIRST_IS_OVERWRITE_CONTRECORD,
    HEADER_SIZE,
    MAJOR_BY_MAGIC,
    parse_segment_header,
)

_SHORT_HEADER = 24
_HEAD = struct.Struct("<IIQBB")  # xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid
_RECORD_HEADER = 24
_CRC_OFFSET = 20
_LONGEST_RECORD = 1020 << 20  # XLogRecordMaxSize
_PIECE_BYTES = 8 << 20
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_RM_XLOG, _RM_XACT, _RM_TABLESPACE = 0, 1, 5
_SHUTDOWN, _ONLINE, _SWITCH, _RESTORE_POINT, _END_OF_RECOVERY = 0x00, 0x10, 0x40, 0x70, 0x90
_XACT_OPMASK, _XACT_HAS_INFO = 0x70, 0x80
_COMMIT, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED = 0x00, 0x20, 0x30, 0x40
# xinfo bits of commit and abort records, and the size of one element of what each announces.
_HAS_DATABASE, _HAS_TWOPHASE = 1 << 0, 1 << 4
_LISTS = ((1 << 1, 4), (1 << 2, 12), (1 << 8, 0), (1 << 3, 16))


class WalEventKind(Enum):
    """What a record is, as far as a restore cares."""

    COMMIT = "commit"
    ABORT = "abort"
    COMMIT_PREPARED = "commit prepared"
    ABORT_PREPARED = "abort prepared"
    RESTORE_POINT = "restore point"
    CHECKPOINT = "checkpoint"
    SHUTDOWN = "shutdown"
    SWITCH = "switch"
    END_OF_RECOVERY = "end of recovery"
    CREATE_TABLESPACE = "create tablespace"


TRANSACTION_ENDS = frozenset(
    {
        WalEventKind.COMMIT,
        WalEventKind.ABORT,
        WalEventKind.COMMIT_PREPARED,
        WalEventKind.ABORT_PREPARED,
    }
)
_XACT_KINDS = {
    _COMMIT: WalEventKind.COMMIT,
    _ABORT: WalEventKind.ABORT,
    _COMMIT_PREPARED: WalEventKind.COMMIT_PREPARED,
    _ABORT_PREPARED: WalEventKind.ABORT_PREPARED,
}
_XLOG_KINDS = {
    _SHUTDOWN: WalEventKind.SHUTDOWN,
    _ONLINE: WalEventKind.CHECKPOINT,
    _SWITCH: WalEventKind.SWITCH,
    _RESTORE_POINT: WalEventKind.RESTORE_POINT,
    _END_OF_RECOVERY: WalEventKind.END_OF_RECOVERY,
}


class WalEvent(NamedTuple):
    """One record of interest. ``lsn`` is where it begins, as ``pg_waldump`` prints it.

    ``xid`` is the transaction that ended (for a prepared one, its own, as recovery compares it).
    ``name`` is that of a restore point, or the location of a new tablespace.
    """

    kind: WalEventKind
    lsn: Lsn
    time: datetime | None = None
    xid: int | None = None
    name: str | None = None


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
        while position + _RECORD_HEADER <= len(stream):
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
            if manager in (_RM_XLOG, _RM_XACT, _RM_TABLESPACE):
                record = stream[position : position + total]
                lsn = self._lsn(self._at + position)
                event = self._event(record, lsn, info=info, manager=manager, xid=xid)
                if event is not None and not _sound(record):
                    self.ended = True
                    break
                if event is not None:
                    events.append(event)
            before, self.last_record = self.last_record, self._lsn(self._at + position)
            last, self._previous = slice(position, position + total), int(self.last_record)
            position = _aligned(position + total)
            if manager == _RM_XLOG and info & 0xF0 == _SWITCH:
                position = self._next_segment(position)
        if self.ended and last.stop and not _sound(stream[last]):
            self.last_record = before
        if position > len(stream):  # the rest of a segment after a switch
            self._skip, position = position - len(stream), len(stream)
        self._stream = stream[position:]
        self._at += position
        return events

    def _plausible(self, total: int, previous: int) -> bool:
        fits = _RECORD_HEADER <= total <= _LONGEST_RECORD
        return fits and (self._previous is None or previous == self._previous)

    def _reset_inside(self, position: int, total: int) -> int | None:
        """Where an aborted record's place was taken over, if this record would reach over it."""
        here = self._at + position
        while self._resets and self._resets[0] <= here:
            self._resets.pop(0)
        if self._resets and self._resets[0] < here + max(total, _RECORD_HEADER):
            return self._resets.pop(0) - self._at
        return None

    def _next_segment(self, position: int) -> int:
        size = self._payload_size
        return -(-(self._at + position) // size) * size - self._at

    def _event(
        self, record: bytes, lsn: Lsn, *, info: int, manager: int, xid: int
    ) -> WalEvent | None:
        if manager == _RM_XACT:
            kind = _XACT_KINDS.get(info & _XACT_OPMASK)
            if kind is None:
                return None
            data = _main_data(record)
            own = xid
            if kind in (WalEventKind.COMMIT_PREPARED, WalEventKind.ABORT_PREPARED):
                own = _two_phase_xid(data, info, major=self._major) or xid
            return WalEvent(kind, lsn, _moment(data), own)
        if manager == _RM_TABLESPACE:
            if info & 0xF0:
                return None
            path = _main_data(record)[4:].split(b"\0")[0].decode("utf-8", "surrogateescape")
            return WalEvent(WalEventKind.CREATE_TABLESPACE, lsn, name=path)
        kind = _XLOG_KINDS.get(info & 0xF0)
        if kind is WalEventKind.RESTORE_POINT:
            data = _main_data(record)
            name = data[8:72].split(b"\0")[0].decode("utf-8", "surrogateescape")
            return WalEvent(kind, lsn, _moment(data), name=name)
        return None if kind is None else WalEvent(kind, lsn)


def known_major(segment: bytes) -> int | None:
    """The major version that wrote a segment."""
    return MAJOR_BY_MAGIC.get(parse_segment_header(segment).magic)


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


def _sound(record: bytes) -> bool:
    """Whether the record's checksum matches."""
    import google_crc32c

    (stored,) = struct.unpack_from("<I", record, _CRC_OFFSET)
    computed = google_crc32c.value(record[_RECORD_HEADER:] + record[:_CRC_OFFSET])
    return bool(computed == stored)


def _main_data(record: bytes) -> bytes:
    """The record's own data, which lies at its end, after those of its blocks."""
    at, end = _RECORD_HEADER, len(record)
    try:
        while at < end:
            block = record[at]
            if block == 0xFF:  # XLR_BLOCK_ID_DATA_SHORT
                return record[end - record[at + 1] :] if record[at + 1] else b""
            if block == 0xFE:  # XLR_BLOCK_ID_DATA_LONG
                (length,) = struct.unpack_from("<I", record, at + 1)
                return record[end - length :] if length else b""
            at += _header_length(record, at, block)
    except (IndexError, struct.error):
        pass
    return b""


def _header_length(record: bytes, at: int, block: int) -> int:
    """How long the header of a block reference, an origin or a top-level transaction is."""
    if block == 0xFD:
        return 3
    if block == 0xFC:
        return 5
    if block > 32:
        raise IndexError(block)
    flags, length = record[at + 1], 4
    if flags & 0x10:  # BKPBLOCK_HAS_IMAGE
        image = record[at + length + 4]
        compressed = image & 0x1C  # pglz, lz4, zstd
        length += 5 + (2 if image & 0x01 and compressed else 0)
    return length + (0 if flags & 0x80 else 12) + 4  # BKPBLOCK_SAME_REL; block number


def _two_phase_xid(data: bytes, info: int, *, major: int | None) -> int | None:
    """``ParseCommitRecord``, as far as the prepared transaction's number."""
    if not info & _XACT_HAS_INFO:
        return None
    try:
        (bits,) = struct.unpack_from("<I", data, 8)
        at = 12 + (8 if bits & _HAS_DATABASE else 0)
        for bit, size in _LISTS:
            if bits & bit:
                (number,) = struct.unpack_from("<i", data, at)
                # xl_xact_stats_item got a 64-bit object id in PostgreSQL 18.
                at += 4 + number * (size or (16 if (major or 18) >= 18 else 12))
        if bits & _HAS_TWOPHASE:
            return int(struct.unpack_from("<I", data, at)[0])
    except struct.error:
        pass
    return None


def _moment(data: bytes) -> datetime | None:
    if len(data) < 8:
        return None
    try:
        return _EPOCH + timedelta(microseconds=struct.unpack_from("<q", data)[0])
    except OverflowError:
        return None
