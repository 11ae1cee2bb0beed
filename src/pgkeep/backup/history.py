"""The history file of a backup's timeline: a listed backup restores, so it must be stored.

The server archives the file once, when its timeline begins. One that was promoted while archiving
was off, as every restored copy is, never does it, and its segments may come by another command than
ours. Without the file nobody can follow the timeline, and every backup on it would be worthless.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import ArchivingNotWorking, LocalIOError, ObjectExists, ObjectNotFound
from pgkeep.postgres.wal_name import history_name
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal import WalHeader, build_wal_object, check_same, read_whole_header
from pgkeep.units import to_utc_text


class _LocalFile(NamedTuple):
    content: bytes
    modified: datetime


def ensure_history(
    repository: Repository, layout: Layout, timeline: int, *, pgdata: Path, host: str
) -> bool:
    """See to it that the history file of ``timeline`` is stored; True when it had to be pushed.

    Raises ``ArchivingNotWorking`` when it is neither stored nor in ``pg_wal``, ``WalConflict`` when
    another one is stored under its name, ``LocalIOError``, ``BrokenServerFile``, and what the store
    raises.
    """
    if timeline == 1:
        return False
    name = history_name(timeline)
    local, stored = _read(pgdata / "pg_wal" / name), _stored(repository, layout, name)
    if stored is None and local is None:
        raise _nowhere(name, timeline, repository.store.url)
    if stored is None and local is not None:
        if _push(repository, layout, name, local, host=host):
            return True
        stored = _stored(repository, layout, name)
    if stored is not None and local is not None:
        check_same(stored, local.content, cluster=layout.cluster, host=host)
    return False


def _read(path: Path) -> _LocalFile | None:
    """None when the file is not there: a server needs it at its first start only."""
    try:
        modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return _LocalFile(path.read_bytes(), modified)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalIOError(
            f"{path} cannot be read.",
            why=f"{error.strerror or error}.",
            remedy="Run pgkeep backup as the owner of the data directory, or as its group.",
        ) from error


def _stored(repository: Repository, layout: Layout, name: str) -> WalHeader | None:
    try:
        return read_whole_header(repository.store, layout.wal_file(name), repository.keyring)
    except ObjectNotFound:
        return None


def _push(
    repository: Repository, layout: Layout, name: str, local: _LocalFile, *, host: str
) -> bool:
    """False when the server's own archiver was quicker."""
    data = build_wal_object(
        repository.keyring,
        local.content,
        name=name,
        kind="history",
        modified=to_utc_text(local.modified),
        pushed=to_utc_text(datetime.now(UTC)),
        host=host,
    )
    try:
        repository.store.put(layout.wal_file(name), data, if_absent=True)
    except ObjectExists:
        return False
    return True


def _nowhere(name: str, timeline: int, url: str) -> ArchivingNotWorking:
    return ArchivingNotWorking(
        f"The history file {name} is neither in {url} nor in the server's pg_wal, so no backup on "
        f"timeline {timeline} could be restored.",
        why="The server archives it once, when the timeline begins, and it did not arrive then.",
        remedy=f"Copy {name} into pg_wal from another server on this timeline, or from wherever "
        "it was archived; then run the backup again.",
        missing=name,
    )
