"""A named restore point: written into the WAL, remembered, and seen to arrive.

PostgreSQL stops at the *first* restore point of a name that it meets, so a name that is remembered
already is refused: going back to it would end at the older one. That the segment which holds it is
in the repository is waited for, since until then one cannot go back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgkeep.backup.prepare import find_data_directory
from pgkeep.backup.proof import Arrival, check_archiving
from pgkeep.errors import ArchivingNotWorking, LocalIOError, ServerError, UsageError
from pgkeep.postgres.backup_session import BackupSession
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.facts import ServerFacts
from pgkeep.postgres.wal_name import previous_segment_number, segment_name
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.marks import RestorePoint, read_restore_points, remember_restore_point
from pgkeep.repository.system import check_system
from pgkeep.storage.interface import Store
from pgkeep.units import show_moment, to_utc_text


@dataclass(frozen=True)
class PointOptions:
    """``pgdata`` is where the data directory is seen from here, if it is. Seconds."""

    cluster: str
    name: str
    pgdata: str | None = None
    archive_timeout: float = 60.0
    force_version: str | None = None


def make_restore_point(
    repository: Repository,
    connection: ServerConnection,
    options: PointOptions,
    *,
    by: Mapping[str, Any],
    others: Sequence[Store] = (),
    progress: Progress,
) -> RestorePoint:
    """Make it, and return when one can go back to it; ``others`` are told of it, too.

    Raises ``UsageError`` for a name that cannot be used or is used already, ``ServerError`` (on a
    standby, too), ``ArchivingNotWorking``, ``CopyRefused``, ``UnknownSystem``, and what the store
    raises. After ``ArchivingNotWorking`` the point is in the server's WAL, and is remembered.
    """
    facts = connection.server_facts()
    layout = Layout(options.cluster, facts.system_identifier)
    directory = _refuse_a_copy(facts, options)
    check_system(repository.store, options.cluster, facts.system_identifier)
    if facts.is_in_recovery:
        raise ServerError(
            "A standby cannot write a restore point.",
            remedy="Run this for the primary (PGHOST), or on its machine.",
        )
    check_archiving(facts)
    _refuse_used(read_restore_points(repository.store, layout), options.name)
    session = BackupSession(connection)
    try:
        lsn = session.create_restore_point(options.name)
    except ValueError as error:
        raise UsageError(f"{options.name!r} cannot be used: {error}.") from error
    timeline = session.control_checkpoint().timeline
    point = RestorePoint(options.name, lsn, timeline, to_utc_text(datetime.now(UTC)))
    for store in (repository.store, *others):
        remember_restore_point(store, layout, point, by=by)
    session.switch_wal()
    number = previous_segment_number(lsn, facts.wal_segment_size)
    segment = segment_name(timeline, number, facts.wal_segment_size)
    progress.phase(f"waiting for {segment} to be archived")
    try:
        Arrival(
            repository,
            layout,
            [segment],
            timeout_seconds=options.archive_timeout,
            connection=connection,
            due=directory and directory / "pg_wal/archive_status",
        ).wait(keepalive=session.keepalive)
    except ArchivingNotWorking as error:
        error.why = (
            f"The restore point {options.name!r} is in the server's WAL at {lsn}, and can be gone "
            f"back to as soon as {segment} is archived. {error.why}"
        )
        raise
    return point


def _refuse_a_copy(facts: ServerFacts, options: PointOptions) -> Path | None:
    """The data directory, if it is to be seen from here; a restored copy is refused."""
    if not (options.pgdata or (facts.data_directory and Path(facts.data_directory).is_dir())):
        return None
    try:
        found = find_data_directory(facts, options.pgdata, force_version=options.force_version)
    except LocalIOError:
        return None  # it belongs to somebody else, and nothing of it is needed
    return found.path


def _refuse_used(known: Sequence[RestorePoint], name: str) -> None:
    for point in known:
        if point.name == name:
            made = show_moment(datetime.fromisoformat(point.at))
            raise UsageError(
                f"There is a restore point {name!r} already, at {point.lsn} ({made}).",
                why="Recovery stops at the first one of a name, so the new one would not be found.",
                remedy="Choose another name.",
            )
