"""What of the original lives on this machine, and must not be touched by a copy's recovery.

Replaying ``CREATE TABLESPACE`` makes the tablespace where the original has it, and if that
directory exists, uses it (``create_tablespace_directories`` in
``src/backend/commands/tablespace.c``): on the original's own machine a copy would write into the
living tablespace. Tablespaces that the backup knows are placed elsewhere; one that was made later
can only be found in WAL. So where the original's data directory exists on this machine, the
plan's WAL is searched, and the restore refused.

A file-by-file copy of the original's directory has its links, too, and a restore over the copy
would follow them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgkeep.errors import PgkeepError, RestoreError
from pgkeep.postgres.datadir import postmaster_running
from pgkeep.postgres.exclusions import WAL_DIRECTORY
from pgkeep.postgres.wal_name import parse_wal_name, segment_of
from pgkeep.postgres.wal_record import WalEventKind
from pgkeep.restore.plan import PlacedTablespace, Resolution
from pgkeep.restore.search import Segment, WalReader, events_on


def original_runs(server: Mapping[str, Any]) -> bool:
    """Whether the server that was backed up runs on this machine now, as far as files tell."""
    directory = server.get("data_directory")
    if not directory:
        return False
    try:
        return postmaster_running(directory) is not None
    except PgkeepError:
        return False  # it is there and not ours to look into; the start will tell


def refuse_live_tablespaces(
    reader: WalReader, resolution: Resolution, server: Mapping[str, Any]
) -> None:
    """Raise ``RestoreError`` if recovery would make a tablespace in a directory that is here."""
    original = server.get("data_directory")
    if not original or not Path(original).is_dir():
        return
    way = [
        Segment(int(parse_wal_name(name).timeline), segment_of(name, reader.segment_size))
        for name in resolution.wal.segments(reader.segment_size)
    ]
    for event in events_on(reader, way):
        made = event.kind is WalEventKind.CREATE_TABLESPACE
        if made and event.lsn >= resolution.backup.start_lsn and _is_used(event.name or "/"):
            raise RestoreError(
                f"Recovery would write into {event.name}, which exists on this machine.",
                why=f"The tablespace there was made after backup {resolution.backup.id} "
                f"(at {event.lsn}), and PostgreSQL makes it again in the same place.",
                remedy="Make a new backup and restore from that, or to a moment before it, or "
                "restore on another machine.",
                location=event.name,
            )


def refuse_shared_places(
    into: Path, spaces: Sequence[PlacedTablespace], server: Mapping[str, Any]
) -> None:
    """Raise ``RestoreError`` if links in a copy of the original's directory lead to where the
    original has its WAL or a tablespace: whoever restores over the copy means the copy."""
    original = Path(server.get("data_directory") or "/")
    try:
        if not (original / WAL_DIRECTORY).is_dir() or original.samefile(into):
            return
    except OSError:
        return  # it is there and not ours to look into, and so not to write into
    places = {into / "pg_tblspc" / str(space.oid): space.location for space in spaces}
    for link, place in {into / WAL_DIRECTORY: into / WAL_DIRECTORY, **places}.items():
        if place.resolve() == (original / link.relative_to(into)).resolve():
            raise RestoreError(
                f"{link} leads to {place.resolve()}, which belongs to {original}, and nothing was "
                "changed.",
                why="The directory is a copy of that one, and its links still lead to the same "
                "places.",
                remedy=f"Remove the link: rm {link}",
                location=str(place.resolve()),
            )


def _is_used(location: str) -> bool:
    try:
        return any(Path(location).iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True
