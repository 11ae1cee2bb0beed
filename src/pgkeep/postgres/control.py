"""``global/pg_control``: what a cluster is, and how far it has got.

The layout is ``ControlFileData`` in ``src/include/catalog/pg_control.h``. It changed little in
the majors that we know: version 1300 serves 13 to 16; 1700 (PostgreSQL 17) put ``wal_level`` of
the last checkpoint into what had been padding; 1800 (PostgreSQL 18) added one byte near the end,
the default signedness of ``char``. So one structure and two tails read all of them.

The server rewrites the file in place while others read it, hence the CRC-32C: a mismatch is
usually a torn read, and reading again mends it (``datadir.read_control``). The checksum of 300
bytes is computed here in plain Python, since importing a library for it takes longer.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import NamedTuple

from pgkeep.errors import BrokenServerFile, UnsupportedVersion
from pgkeep.postgres.lsn import Lsn

CONTROL_PATH = "global/pg_control"
CONTROL_FILE_SIZE = 8192

# CATALOG_VERSION_NO (src/include/catalog/catversion.h) never changes within a major.
MAJOR_BY_CATALOG = {202209061: 15, 202307071: 16, 202406281: 17, 202506291: 18}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD = struct.Struct("<QIII4xqQ")
_CHECKPOINT = struct.Struct("<QII?3xiQIIIIIII4xqIII4x")
_BODY = struct.Struct("<QQI4xQQ?3xi?3xiiiii?3xIdIIIIIIII?3xI")
# After the body: [default_char_signedness], mock_authentication_nonce, crc.
_TAILS = {
    1300: struct.Struct("<32sI"),
    1700: struct.Struct("<32sI"),
    1800: struct.Struct("<?32s3xI"),
}


class ClusterState(Enum):
    """``DBState``; the value is the server's, the text is ``pg_controldata``'s."""

    STARTING_UP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6

    @property
    def text(self) -> str:
        return self.name.replace("STARTING_UP", "STARTING UP").replace("_", " ").lower()


class CheckpointCopy(NamedTuple):
    """The last checkpoint record. ``wal_level`` is None before PostgreSQL 17."""

    redo: Lsn
    timeline: int
    previous_timeline: int
    full_page_writes: bool
    wal_level: int | None
    next_xid: int
    next_oid: int
    next_multi: int
    next_multi_offset: int
    oldest_xid: int
    oldest_xid_database: int
    oldest_multi: int
    oldest_multi_database: int
    time: datetime
    oldest_commit_ts_xid: int
    newest_commit_ts_xid: int
    oldest_active_xid: int

    @property
    def next_xid_text(self) -> str:
        """Epoch and number, ``0:731``, as ``pg_controldata`` prints a full transaction id."""
        return f"{self.next_xid >> 32}:{self.next_xid & 0xFFFFFFFF}"


class ControlFile(NamedTuple):
    """The content of pg_control; sizes in bytes, times in UTC to the second."""

    system_identifier: int
    control_version: int
    catalog_version: int
    state: ClusterState
    time: datetime
    checkpoint: Lsn
    checkpoint_copy: CheckpointCopy
    unlogged_lsn: Lsn
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start_point: Lsn
    backup_end_point: Lsn
    backup_end_required: bool
    wal_level: int
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    max_align: int
    float_format: float
    block_size: int
    relation_segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    name_data_length: int
    index_max_keys: int
    toast_max_chunk_size: int
    large_object_chunk_size: int
    float8_by_value: bool
    data_checksum_version: int
    default_char_signed: bool | None
    mock_authentication_nonce: str
    crc: int

    @property
    def major(self) -> int | None:
        """The major version, told by the catalog version; None for one that we do not know."""
        return MAJOR_BY_CATALOG.get(self.catalog_version)

    @property
    def data_checksums(self) -> bool:
        """Whether data pages carry checksums."""
        return self.data_checksum_version != 0


def parse_control_file(data: bytes) -> ControlFile:
    """Read pg_control.

    Raises UnsupportedVersion for a layout that we do not know, and BrokenServerFile when the
    file is too short or its CRC does not match (a torn read, or a damaged file).
    """
    if len(data) < _HEAD.size:
        raise _broken(f"It has {len(data)} bytes.")
    version = struct.unpack_from("<I", data, 8)[0]
    tail = _TAILS.get(version)
    if tail is None:
        raise _unknown_version(version)
    start = _HEAD.size + _CHECKPOINT.size + _BODY.size
    if len(data) < start + tail.size:
        raise _broken(f"It has {len(data)} bytes.")
    *signed, nonce, crc = tail.unpack_from(data, start)
    if crc32c(data[: start + tail.size - 4]) != crc:
        raise _broken("Its checksum does not match its content.")
    return _assemble(data, bool(signed[0]) if signed else None, nonce=nonce.hex(), crc=crc)


def _assemble(data: bytes, signed: bool | None, *, nonce: str, crc: int) -> ControlFile:
    system, version, catalog, state, time, checkpoint = _HEAD.unpack_from(data)
    copy = _checkpoint_copy(data, version)
    body = _BODY.unpack_from(data, _HEAD.size + _CHECKPOINT.size)
    unlogged, min_point, min_timeline, backup_start, backup_end, *settings = body
    try:
        cluster_state = ClusterState(state)
    except ValueError as error:
        raise _broken(f"It has the unknown state {state}.") from error
    head = (system, version, catalog, cluster_state, _moment(time), Lsn(checkpoint), copy)
    points = (Lsn(unlogged), Lsn(min_point), min_timeline, Lsn(backup_start), Lsn(backup_end))
    return ControlFile._make((*head, *points, *settings, signed, nonce, crc))


def _checkpoint_copy(data: bytes, version: int) -> CheckpointCopy:
    redo, timeline, previous, full_pages, wal_level, *rest = _CHECKPOINT.unpack_from(
        data, _HEAD.size
    )
    numbers, time, transactions = rest[:8], rest[8], rest[9:]
    level = wal_level if version >= 1700 else None
    head = (Lsn(redo), timeline, previous, full_pages, level)
    return CheckpointCopy._make((*head, *numbers, _moment(time), *transactions))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few hundred bytes; for more, use a library."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


_table: list[int] = []


def _crc_table() -> list[int]:
    if len(_table) < 256:
        entries = []
        for index in range(256):
            entry = index
            for _ in range(8):
                entry = (entry >> 1) ^ (0x82F63B78 if entry & 1 else 0)
            entries.append(entry)
        _table[:] = entries
    return _table


def _moment(seconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise _broken(f"It holds an impossible time ({seconds} s).") from error


def _unknown_version(version: int) -> BrokenServerFile | UnsupportedVersion:
    if version % 65536 == 0 and version > 0:
        return _broken("It was written by a machine with the other byte order.")
    if not 900 <= version <= 9999:
        return _broken(f"It names the impossible format {version}.")
    return UnsupportedVersion(
        f"pg_control has format {version}, which this version of pgkeep cannot read.",
        why="Known are 1300 (PostgreSQL 13 to 16), 1700 (17) and 1800 (18).",
        remedy="Update pgkeep. This cannot be forced, for the layout of the file is not known.",
        control_version=version,
    )


def _broken(why: str) -> BrokenServerFile:
    return BrokenServerFile(
        "global/pg_control cannot be read.",
        why=why,
        remedy="If the server runs, try again; if it is down, the file is damaged and the "
        "cluster needs a restore.",
    )
