"""The header on the first page of a WAL segment, which says whose the segment is.

A file name says only a timeline and a position, and every cluster in the world has a
``000000010000000000000001``. The long header of the first page adds the system identifier,
the segment size and the page's own address (``XLogLongPageHeaderData`` in
``src/include/access/xlog_internal.h``). All three are checked before a segment is archived, for
a segment under the wrong name or in the wrong cluster is found only when somebody needs it.

There is no time in a page header, nor anywhere in a segment without decoding its records.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pgkeep.errors import ForeignWal
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import WalName, parse_wal_name, segment_of, segment_start_lsn

# XLOG_PAGE_MAGIC of each released major. Values between two of them were only ever in
# development versions.
MAGIC_BY_MAJOR = {15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
MAJOR_BY_MAGIC = {magic: major for major, magic in MAGIC_BY_MAJOR.items()}

FIRST_IS_CONTRECORD = 0x0001
LONG_HEADER = 0x0002
FIRST_IS_OVERWRITE_CONTRECORD = 0x0008

# xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len (padded to 24 bytes), then xlp_sysid,
# xlp_seg_size, xlp_xlog_blcksz. Little-endian, as every platform that we build for.
_LONG_PAGE_HEADER = struct.Struct("<HHIQI4xQII")
HEADER_SIZE = _LONG_PAGE_HEADER.size


class SegmentHeader(NamedTuple):
    """The long page header; ``major`` is None for a magic number that we do not know."""

    magic: int
    major: int | None
    info: int
    timeline: int
    page_address: Lsn
    system_identifier: int
    segment_size: int
    block_size: int

    @property
    def is_long(self) -> bool:
        """Whether the page says that it carries the long header, as a first page must."""
        return bool(self.info & LONG_HEADER)


def parse_segment_header(data: bytes | bytearray | memoryview) -> SegmentHeader:
    """Read the header from the first bytes (at least ``HEADER_SIZE``) of a segment.

    Nothing is judged here beyond the length, so that a caller can show what it found; raises
    ForeignWal when there are too few bytes to hold a header.
    """
    if len(data) < HEADER_SIZE:
        raise ForeignWal(
            f"This is not a WAL segment: it has {len(data)} bytes.",
            why=f"The header alone takes {HEADER_SIZE} bytes.",
            remedy="Look at the file in pg_wal; if it is as short there, check that disk.",
        )
    magic, info, timeline, address, _, system, size, block = _LONG_PAGE_HEADER.unpack_from(data)
    return SegmentHeader(
        magic, MAJOR_BY_MAGIC.get(magic), info, timeline, Lsn(address), system, size, block
    )


def check_segment(
    header: SegmentHeader,
    name: str | WalName,
    *,
    system_identifier: int | None,
    segment_size: int,
    allow_unknown_magic: bool = False,
) -> None:
    """Raise ForeignWal unless the segment is what its name says and ours.

    ``system_identifier`` None means that there is none to compare with yet. ``segment_size``
    is the cluster's, in bytes. ``allow_unknown_magic`` is for a forced, untested major.
    """
    parsed = parse_wal_name(name) if isinstance(name, str) else name
    _check_magic(header, parsed.name, allow_unknown=allow_unknown_magic)
    _check_system(header, parsed.name, system_identifier)
    _check_size(header, parsed.name, segment_size)
    _check_address(header, parsed, segment_size)
    # The beginning of the first segment of a new timeline is a copy of the old one's, with
    # the old number in its header: lower is right, higher never is.
    if header.timeline > parsed.timeline:
        raise ForeignWal(
            f"{parsed.name} was not accepted: its first page was written on timeline "
            f"{header.timeline}, its name says timeline {parsed.timeline}.",
            why="A segment can begin with WAL of an older timeline, never of a newer one.",
            remedy="Find out who renamed or copied the file; do not archive it by hand.",
            name=parsed.name,
        )


def _check_magic(header: SegmentHeader, name: str, *, allow_unknown: bool) -> None:
    if header.is_long and (header.major is not None or allow_unknown):
        return
    if header.magic == 0 and header.system_identifier == 0:
        why = "It begins with zeros: the server has not written to it yet, or its content is lost."
    elif header.major is not None:
        why = "Its first page lacks the long header that the first page of a segment has."
    else:
        known = ", ".join(str(major) for major in sorted(MAGIC_BY_MAJOR))
        why = (
            f"Its first two bytes are {header.magic:04X}, which no known major version "
            f"of PostgreSQL writes ({known})."
        )
    raise ForeignWal(
        f"{name} is not a WAL segment that pgkeep knows.",
        why=why,
        remedy="Check that archive_command passes %p unchanged; for a newer PostgreSQL, update "
        "pgkeep or set force_version.",
        name=name,
        magic=f"{header.magic:04X}",
    )


def _check_system(header: SegmentHeader, name: str, expected: int | None) -> None:
    if expected is None or header.system_identifier == expected:
        return
    raise ForeignWal(
        f"{name} belongs to another cluster and was not accepted.",
        why=f"It was written by the system {header.system_identifier}; "
        f"this cluster is the system {expected}.",
        remedy="Give each server its own cluster name, or run 'pgkeep init --new-system' if this "
        "server was created anew and is meant to take the name over.",
        name=name,
        found_system=header.system_identifier,
        expected_system=expected,
    )


def _check_size(header: SegmentHeader, name: str, segment_size: int) -> None:
    if header.segment_size == segment_size:
        return
    raise ForeignWal(
        f"{name} has the wrong segment size and was not accepted.",
        why=f"Its header says {header.segment_size} bytes, expected are {segment_size} bytes.",
        remedy="Check the file's size in pg_wal. If pg_resetwal --wal-segsize was run on this "
        "server, make a new full backup.",
        name=name,
        found_size=header.segment_size,
        expected_size=segment_size,
    )


def _check_address(header: SegmentHeader, name: WalName, segment_size: int) -> None:
    try:
        expected = segment_start_lsn(segment_of(name, segment_size), segment_size)
    except ValueError as error:
        raise ForeignWal(
            f"{name.name} was not accepted: no such segment can exist.",
            why=f"{error}.",
            remedy="Check that archive_command passes %p and %f unchanged.",
            name=name.name,
        ) from error
    if header.page_address == expected:
        return
    raise ForeignWal(
        f"{name.name} holds the WAL of another position and was not accepted.",
        why=f"Its first page says {header.page_address}, its name means {expected}: the server "
        "recycled or renamed the file, or has not written it yet.",
        remedy="Never archive files by hand from pg_wal; let the server call archive_command.",
        name=name.name,
        found_address=header.page_address,
        expected_address=expected,
    )
