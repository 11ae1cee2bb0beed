"""The low-level backup: ``pg_backup_start``, the copy, ``pg_backup_stop``.

The server ties a backup to the session that began it: when the session ends, so does the
backup, and full-page writes are no longer forced. That is also how a failed backup is taken
back: the session is closed, nothing else. While files are copied the session is idle, so
``keepalive`` must be called now and then: otherwise a lost connection would be noticed only at
the stop, after hours, with a copy that is worth nothing.

``pg_backup_stop`` is told not to wait for archiving. It would wait for ever and without a
word if ``archive_command`` fails; pgkeep looks for the segments in the repository itself. On a
standby it would not archive at all.

(Chapter "Making a Base Backup Using the Low Level API"; ``do_pg_backup_start`` and
``do_pg_backup_stop`` in ``src/backend/access/transam/xlog.c``.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pgkeep.errors import ServerError
from pgkeep.postgres.label import parse_backup_label
from pgkeep.postgres.lsn import Lsn, Timeline
from pgkeep.postgres.standby_backup import check_begun, check_timeline, explained, promoted

if TYPE_CHECKING:
    from datetime import datetime

    from pgkeep.postgres.connection import ServerConnection
    from pgkeep.postgres.control import ControlFile

MAX_LABEL_BYTES = 1024
MAX_RESTORE_POINT_BYTES = 63


@dataclass(frozen=True)
class StartedBackup:
    """A backup has begun. ``started_at`` is the server's clock just before, in UTC."""

    start_lsn: Lsn
    timeline: Timeline
    started_at: datetime
    from_standby: bool


@dataclass(frozen=True)
class StoppedBackup:
    """A backup has ended; the two files go into the restored directory byte for byte.

    ``tablespace_map`` is empty when there is no tablespace, and is then not written.
    """

    stop_lsn: Lsn
    label_file: bytes
    tablespace_map: bytes
    stopped_at: datetime


@dataclass(frozen=True)
class ControlCheckpoint:
    """The last checkpoint as ``pg_control_checkpoint()`` reads it from the server's own file."""

    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    timeline: Timeline
    previous_timeline: Timeline
    next_xid: str
    checkpoint_time: datetime
    system_identifier: int

    def matches(self, control: ControlFile) -> bool:
        """Whether a pg_control found in some directory is the server's at this moment.

        A stale clone has the same system identifier, and an older checkpoint.
        """
        copy = control.checkpoint_copy
        return (
            self.system_identifier == control.system_identifier
            and self.checkpoint_lsn == control.checkpoint
            and self.redo_lsn == copy.redo
            and self.timeline == copy.timeline
            and self.previous_timeline == copy.previous_timeline
            and self.next_xid == copy.next_xid_text
            and self.checkpoint_time == copy.time
        )


class BackupSession:
    """A non-exclusive backup on a primary or a standby.

    Use it in a ``with``: unless :meth:`stop` has returned, leaving the block closes the
    connection, and the server aborts the backup.
    """

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._started: StartedBackup | None = None
        self._stopped = False

    def start(self, label: str, fast: bool) -> StartedBackup:
        """Begin a backup; with ``fast`` the checkpoint is immediate, else spread over minutes.

        Raises ServerError.
        """
        if len(label.encode()) > MAX_LABEL_BYTES or "\n" in label:
            raise ValueError("a backup label is one line of at most 1024 bytes")
        if self._started:
            raise ValueError("this session has begun a backup already")
        in_recovery = bool(self._connection.value("SELECT pg_is_in_recovery()"))
        try:
            started_at, lsn = self._connection.row(
                "SELECT clock_timestamp(), pg_backup_start(label => %s, fast => %s)::text",
                (label, fast),
            )
        except ServerError as error:
            if in_recovery:
                raise explained(error, self._connection) from error.__cause__
            raise
        checkpoint = self.control_checkpoint()
        if in_recovery:
            check_begun(self._connection, checkpoint.timeline)
        self._started = StartedBackup(
            start_lsn=Lsn.parse(lsn),
            timeline=checkpoint.timeline,
            started_at=started_at,
            from_standby=in_recovery,
        )
        return self._started

    def keepalive(self) -> None:
        """Make sure that the session lives, and that a standby is still one, of the same timeline.

        Raises ServerError, after which the backup is lost.
        """
        in_recovery = bool(self._connection.value("SELECT pg_is_in_recovery()"))
        if self._started and self._started.from_standby:
            if not in_recovery:
                raise promoted()
            check_timeline(self._connection, self._started.timeline)

    def replayed(self) -> Lsn:
        """Up to where a standby has replayed WAL, or received it. Raises ServerError."""
        return Lsn.parse(
            self._connection.value(
                "SELECT greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn())::text"
            )
        )

    def stop(self) -> StoppedBackup:
        """End the backup, without waiting for the archiver. Raises ServerError.

        On a primary the server also switches to a new WAL segment, so that the last needed
        one becomes ready for archiving; a standby cannot.
        """
        if not self._started or self._stopped:
            raise ValueError("there is no backup to stop")
        # Paths in the map are bytes of the file system; the detour through bytea keeps them
        # from being read as text in the client's encoding.
        try:
            lsn, label, links, stopped_at = self._connection.row(
                "SELECT lsn::text, convert_to(labelfile, getdatabaseencoding()), "
                "convert_to(spcmapfile, getdatabaseencoding()), clock_timestamp() "
                "FROM pg_backup_stop(wait_for_archive => false)"
            )
        except ServerError as error:
            if self._started.from_standby:
                raise explained(error, self._connection) from error.__cause__
            raise
        self._stopped = True
        if self._started.from_standby:
            # The label's: a restart point may have come between the start and our question.
            check_timeline(self._connection, parse_backup_label(bytes(label)).timeline)
        return StoppedBackup(
            stop_lsn=Lsn.parse(lsn),
            label_file=bytes(label),
            tablespace_map=bytes(links or b""),
            stopped_at=stopped_at,
        )

    def abandon(self) -> None:
        """Give up a call that another thread waits in: there it raises ServerError, soon. The
        server aborts the backup when its checkpoint is made."""
        self._connection.cut()

    def control_checkpoint(self) -> ControlCheckpoint:
        """What the server's own pg_control says now. Raises ServerError."""
        lsn, redo, timeline, previous, next_xid, time, system = self._connection.row(
            "SELECT checkpoint_lsn::text, redo_lsn::text, timeline_id, prev_timeline_id, "
            "next_xid, checkpoint_time, system_identifier "
            "FROM pg_control_checkpoint(), pg_control_system()"
        )
        return ControlCheckpoint(
            checkpoint_lsn=Lsn.parse(lsn),
            redo_lsn=Lsn.parse(redo),
            timeline=Timeline(timeline),
            previous_timeline=Timeline(previous),
            next_xid=next_xid,
            checkpoint_time=time,
            system_identifier=system & 0xFFFFFFFFFFFFFFFF,
        )

    def switch_wal(self) -> Lsn:
        """Finish the current WAL segment, if anything is in it; the end LSN. Raises ServerError."""
        return Lsn.parse(self._connection.value("SELECT pg_switch_wal()::text"))

    def create_restore_point(self, name: str) -> Lsn:
        """Write a named restore point into the WAL; its LSN. Not on a standby.

        Raises ServerError.
        """
        if not 0 < len(name.encode()) <= MAX_RESTORE_POINT_BYTES:
            raise ValueError("the name of a restore point has 1 to 63 bytes")
        return Lsn.parse(
            self._connection.value("SELECT pg_create_restore_point(%s)::text", (name,))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started is None or not self._stopped:
            self._connection.close()
