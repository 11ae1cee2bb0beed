"""``backup_label`` and ``tablespace_map``: what makes a copied directory recoverable.

``pg_backup_stop`` returns both as text; the restored directory must hold them byte for byte,
so we store the bytes and parse only to check and to show. Formats: ``build_backup_content`` in
``src/backend/access/transam/xlogbackup.c``, ``read_backup_label`` and ``read_tablespace_map``
in ``xlogrecovery.c``. The ``.backup`` files in an archive have the same lines and three more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.errors import BrokenServerFile
from pgkeep.postgres.lsn import Lsn, Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BACKUP_LABEL_FILE = "backup_label"
TABLESPACE_MAP_FILE = "tablespace_map"


class BackupLabel(NamedTuple):
    """A parsed ``backup_label`` (or ``.backup`` file, which alone has the stop fields).

    ``start_time`` and ``stop_time`` are text in the server's ``log_timezone``. The
    ``incremental_from`` fields are set for one of PostgreSQL's own incremental backups, from
    which no server starts.
    """

    start_lsn: Lsn
    start_segment: str
    checkpoint_lsn: Lsn
    method: str
    taken_from: str
    start_time: str
    label: str
    timeline: Timeline
    incremental_from_lsn: Lsn | None = None
    incremental_from_timeline: Timeline | None = None
    stop_lsn: Lsn | None = None
    stop_segment: str | None = None
    stop_time: str | None = None
    stop_timeline: Timeline | None = None

    @property
    def from_standby(self) -> bool:
        return self.taken_from == "standby"


class TablespaceLink(NamedTuple):
    """A line of ``tablespace_map``: the tablespace's OID and its directory."""

    oid: int
    location: str


def parse_backup_label(data: bytes) -> BackupLabel:
    """Read a ``backup_label`` or a ``.backup`` file.

    Raises BrokenServerFile when a line that recovery needs is missing or malformed.
    """
    fields: dict[str, str] = {}
    for line in os.fsdecode(data).split("\n"):
        key, colon, value = line.partition(": ")
        if colon:
            fields.setdefault(key, value)
    try:
        return _from_fields(fields)
    except KeyError as error:
        raise _broken(f"The line {error.args[0]!r} is missing.") from error
    except ValueError as error:
        raise _broken(f"{error}.") from error


def _from_fields(fields: dict[str, str]) -> BackupLabel:
    start, segment = _location(fields["START WAL LOCATION"])
    stop, stop_segment = None, None
    if "STOP WAL LOCATION" in fields:
        stop, stop_segment = _location(fields["STOP WAL LOCATION"])
    from_lsn = fields.get("INCREMENTAL FROM LSN")
    return BackupLabel(
        start_lsn=start,
        start_segment=segment,
        checkpoint_lsn=Lsn.parse(fields["CHECKPOINT LOCATION"]),
        method=fields["BACKUP METHOD"],
        taken_from=fields["BACKUP FROM"],
        start_time=fields["START TIME"],
        label=fields["LABEL"],
        timeline=Timeline(int(fields["START TIMELINE"])),
        incremental_from_lsn=None if from_lsn is None else Lsn.parse(from_lsn),
        incremental_from_timeline=_timeline(fields.get("INCREMENTAL FROM TLI")),
        stop_lsn=stop,
        stop_segment=stop_segment,
        stop_time=fields.get("STOP TIME"),
        stop_timeline=_timeline(fields.get("STOP TIMELINE")),
    )


def _location(text: str) -> tuple[Lsn, str]:
    lsn, _, rest = text.partition(" (file ")
    if len(rest) != 25 or not rest.endswith(")"):
        raise ValueError(f"not a WAL location: {text!r}")
    return Lsn.parse(lsn), rest[:-1]


def _timeline(text: str | None) -> Timeline | None:
    return None if text is None else Timeline(int(text))


def parse_tablespace_map(data: bytes) -> tuple[TablespaceLink, ...]:
    """Read a ``tablespace_map``: one ``<oid> <directory>`` a line, backslash escapes any byte.

    Raises BrokenServerFile where the server would refuse the file.
    """
    links = []
    for line in _unescaped_lines(data):
        oid, space, location = line.partition(b" ")
        if not space or not oid.isdigit() or not location:
            raise BrokenServerFile(
                "tablespace_map cannot be read.",
                why=f"The line {line!r} is not an OID and a directory.",
                remedy="Make a new backup.",
            )
        links.append(TablespaceLink(int(oid), os.fsdecode(location)))
    return tuple(links)


def format_tablespace_map(links: Iterable[TablespaceLink]) -> bytes:
    """The inverse of :func:`parse_tablespace_map`, escaped as ``do_pg_backup_start`` does."""
    lines = []
    for link in links:
        location = os.fsencode(link.location)
        for special in (b"\\", b"\n", b"\r"):
            location = location.replace(special, b"\\" + special)
        lines.append(b"%d %s\n" % (link.oid, location))
    return b"".join(lines)


def _unescaped_lines(data: bytes) -> Iterator[bytes]:
    line = bytearray()
    escaped = False
    for byte in data:
        if not escaped and byte == 0x5C:
            escaped = True
        elif not escaped and byte in b"\n\r":
            if line:
                yield bytes(line)
            line.clear()
        else:
            line.append(byte)
            escaped = False
    if line or escaped:
        raise BrokenServerFile(
            "tablespace_map cannot be read.",
            why="Its last line does not end.",
            remedy="Make a new backup.",
        )


def _broken(why: str) -> BrokenServerFile:
    return BrokenServerFile(
        "The backup label cannot be read.",
        why=why,
        remedy="Without it the directory must not be started; make or restore another backup.",
    )
