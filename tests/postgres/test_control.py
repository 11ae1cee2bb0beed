"""pg_control is read field for field as pg_controldata reads it, and never when it is damaged."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import BrokenServerFile, UnsupportedVersion
from pgkeep.postgres.control import ControlFile, crc32c, parse_control_file
from pgkeep.postgres.wal_name import segment_name, segment_number
from tests.installations import Installation
from tests.servers import PgServer
from tests.templates import template

WAL_LEVELS = ("minimal", "replica", "logical")


@pytest.fixture
def real(pg_installation: Installation) -> bytes:
    fresh = template(pg_installation, checksums=True, wal_segsize_mb=16)
    return (fresh / "global" / "pg_control").read_bytes()


@pytest.mark.every_major
def test_every_field_is_what_pg_controldata_prints(server: PgServer) -> None:
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000); CHECKPOINT")
    server.stop("immediate")
    control = parse_control_file((server.pgdata / "global" / "pg_control").read_bytes())
    printed = dict(
        line.split(":", 1)
        for line in server.run("pg_controldata", server.pgdata).stdout.splitlines()
    )
    printed = {name: value.strip() for name, value in printed.items()}
    assert control.major == server.installation.major
    assert expected_text(control) == printed


def expected_text(control: ControlFile) -> dict[str, str]:
    """What ``pg_controldata`` prints, line for line, made from our fields."""
    copy = control.checkpoint_copy
    size = control.wal_segment_size
    text = {
        "pg_control version number": control.control_version,
        "Catalog version number": control.catalog_version,
        "Database system identifier": control.system_identifier,
        "Database cluster state": control.state.text,
        "pg_control last modified": moment(control.time),
        "Latest checkpoint location": control.checkpoint,
        "Latest checkpoint's REDO location": copy.redo,
        "Latest checkpoint's REDO WAL file": segment_name(
            copy.timeline, segment_number(copy.redo, size), size
        ),
        "Latest checkpoint's TimeLineID": copy.timeline,
        "Latest checkpoint's PrevTimeLineID": copy.previous_timeline,
        "Latest checkpoint's full_page_writes": on_off(copy.full_page_writes),
        "Latest checkpoint's NextXID": copy.next_xid_text,
        "Latest checkpoint's NextOID": copy.next_oid,
        "Latest checkpoint's NextMultiXactId": copy.next_multi,
        "Latest checkpoint's NextMultiOffset": copy.next_multi_offset,
        "Latest checkpoint's oldestXID": copy.oldest_xid,
        "Latest checkpoint's oldestXID's DB": copy.oldest_xid_database,
        "Latest checkpoint's oldestActiveXID": copy.oldest_active_xid,
        "Latest checkpoint's oldestMultiXid": copy.oldest_multi,
        "Latest checkpoint's oldestMulti's DB": copy.oldest_multi_database,
        "Latest checkpoint's oldestCommitTsXid": copy.oldest_commit_ts_xid,
        "Latest checkpoint's newestCommitTsXid": copy.newest_commit_ts_xid,
        "Time of latest checkpoint": moment(copy.time),
        "Fake LSN counter for unlogged rels": control.unlogged_lsn,
        "Minimum recovery ending location": control.min_recovery_point,
        "Min recovery ending loc's timeline": control.min_recovery_timeline,
        "Backup start location": control.backup_start_point,
        "Backup end location": control.backup_end_point,
        "End-of-backup record required": "yes" if control.backup_end_required else "no",
        "wal_level setting": WAL_LEVELS[control.wal_level],
        "wal_log_hints setting": on_off(control.wal_log_hints),
        "max_connections setting": control.max_connections,
        "max_worker_processes setting": control.max_worker_processes,
        "max_wal_senders setting": control.max_wal_senders,
        "max_prepared_xacts setting": control.max_prepared_transactions,
        "max_locks_per_xact setting": control.max_locks_per_transaction,
        "track_commit_timestamp setting": on_off(control.track_commit_timestamp),
        "Maximum data alignment": control.max_align,
        "Database block size": control.block_size,
        "Blocks per segment of large relation": control.relation_segment_blocks,
        "WAL block size": control.wal_block_size,
        "Bytes per WAL segment": control.wal_segment_size,
        "Maximum length of identifiers": control.name_data_length,
        "Maximum columns in an index": control.index_max_keys,
        "Maximum size of a TOAST chunk": control.toast_max_chunk_size,
        "Size of a large-object chunk": control.large_object_chunk_size,
        "Date/time type storage": "64-bit integers",
        "Float8 argument passing": "by value" if control.float8_by_value else "by reference",
        "Data page checksum version": control.data_checksum_version,
        "Mock authentication nonce": control.mock_authentication_nonce,
    }
    if control.default_char_signed is not None:
        signed = "signed" if control.default_char_signed else "unsigned"
        text["Default char data signedness"] = signed
    return {name: str(value) for name, value in text.items()}


def moment(value: datetime) -> str:
    """``%c`` in the C locale and UTC, in which the programs run."""
    return value.astimezone(UTC).strftime("%a %b %e %H:%M:%S %Y")


def on_off(value: bool) -> str:
    return "on" if value else "off"


def test_any_changed_byte_is_noticed(real: bytes) -> None:
    length = next(n for n in range(280, 300) if crc_at(real, n))
    for position in range(length + 4):
        damaged = bytearray(real)
        damaged[position] ^= 0x10
        with pytest.raises((BrokenServerFile, UnsupportedVersion)):
            parse_control_file(bytes(damaged))
    beyond = bytearray(real)
    beyond[length + 4] ^= 0x10
    assert parse_control_file(bytes(beyond)) == parse_control_file(real)


def crc_at(data: bytes, offset: int) -> bool:
    return struct.unpack_from("<I", data, offset)[0] == google_crc32c.value(data[:offset])


@pytest.mark.parametrize("length", [0, 7, 39, 255, 280])
def test_a_file_cut_short_is_refused(real: bytes, length: int) -> None:
    with pytest.raises(BrokenServerFile, match="cannot be read"):
        parse_control_file(real[:length])


def test_an_unknown_format_is_no_damage() -> None:
    data = struct.pack("<QII", 1, 1903, 202700000) + bytes(8176)
    with pytest.raises(UnsupportedVersion, match="1903"):
        parse_control_file(data)


def test_the_other_byte_order_is_named() -> None:
    data = struct.pack(">QII", 1, 1800, 202506291) + bytes(8176)
    with pytest.raises(BrokenServerFile, match="other byte order"):
        parse_control_file(data)


@given(st.binary(max_size=300))
def test_our_checksum_is_crc32c(data: bytes) -> None:
    assert crc32c(data) == google_crc32c.value(data)


@given(st.binary(max_size=400))
def test_noise_is_refused_in_words(data: bytes) -> None:
    with pytest.raises((BrokenServerFile, UnsupportedVersion)):
        parse_control_file(data)
