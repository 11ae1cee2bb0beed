"""WAL records, as far as a restore cares: where transactions end, restore points, switches.

Structures: ``xlogrecord.h`` (a record and its block references), ``xact.h`` (ends of transactions),
``pg_control.h`` and ``xlog_internal.h`` (restore points), ``tablespace.h``, ``dbcommands_xlog.h``.
What any other record does is not understood here, and need not be.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import NamedTuple

from pgkeep.postgres.lsn import Lsn

RECORD_HEADER_SIZE = 24
_CRC_OFFSET = 20
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

RM_XLOG, _RM_XACT, _RM_DATABASE, _RM_TABLESPACE = 0, 1, 4, 5
MANAGERS = frozenset({RM_XLOG, _RM_XACT, _RM_DATABASE, _RM_TABLESPACE})
_DATABASE_DROP = 0x20
_SHUTDOWN, _ONLINE, SWITCH, _RESTORE_POINT, _END_OF_RECOVERY = 0x00, 0x10, 0x40, 0x70, 0x90
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
    DROP_DATABASE = "drop database"


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
    SWITCH: WalEventKind.SWITCH,
    _RESTORE_POINT: WalEventKind.RESTORE_POINT,
    _END_OF_RECOVERY: WalEventKind.END_OF_RECOVERY,
}


class WalEvent(NamedTuple):
    """One record of interest. ``lsn`` is where it begins, as ``pg_waldump`` prints it.

    ``xid`` is the transaction that ended (for a prepared one, its own, as recovery compares it).
    ``name`` is that of a restore point, the location of a new tablespace, or the number of a
    database whose files are removed.
    """

    kind: WalEventKind
    lsn: Lsn
    time: datetime | None = None
    xid: int | None = None
    name: str | None = None


def event_of(
    record: bytes, lsn: Lsn, *, info: int, manager: int, xid: int, major: int | None
) -> WalEvent | None:
    """What a whole record says; None if nothing of interest. ``major`` is who wrote it."""
    if manager == _RM_XACT:
        kind = _XACT_KINDS.get(info & _XACT_OPMASK)
        if kind is None:
            return None
        data = _main_data(record)
        own = xid
        if kind in (WalEventKind.COMMIT_PREPARED, WalEventKind.ABORT_PREPARED):
            own = _two_phase_xid(data, info, major=major) or xid
        return WalEvent(kind, lsn, _moment(data), own)
    if manager == _RM_DATABASE:
        if info & 0xF0 != _DATABASE_DROP:
            return None
        number = int.from_bytes(_main_data(record)[:4], "little")
        return WalEvent(WalEventKind.DROP_DATABASE, lsn, xid=xid, name=str(number))
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


def is_sound(record: bytes) -> bool:
    """Whether the record's checksum matches."""
    import crc32c

    (stored,) = struct.unpack_from("<I", record, _CRC_OFFSET)
    computed = crc32c.crc32c(record[RECORD_HEADER_SIZE:] + record[:_CRC_OFFSET])
    return bool(computed == stored)


def _main_data(record: bytes) -> bytes:
    """The record's own data, which lies at its end, after those of its blocks."""
    at, end = RECORD_HEADER_SIZE, len(record)
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
