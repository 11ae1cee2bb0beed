"""When the WAL segments of a backup are full, so that somebody archives them.

A server that accepts writes ends a segment when it is asked to. A standby cannot: its primary does,
which is asked if there is a way to it (PGKEEP_PRIMARY), and otherwise when it pleases.

Who archives is not asked. It may be the primary, the standby (``archive_mode = always``), or both,
and the segments are looked for in the repository. That what lies there is this standby's WAL is
seen by comparing the last segment with its own: its archiver may not even try, and could then not
be refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.proof import check_archiving, not_archiving
from pgkeep.errors import ObjectNotFound, ServerError
from pgkeep.postgres.backup_session import BackupSession, StartedBackup
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.facts import ServerFacts
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.primary import Primary, connect_primary
from pgkeep.postgres.wal_name import segment_of, segment_start_lsn
from pgkeep.repository.wal import check_same, read_whole_header

_RECEIVED_SECONDS = 5.0


def check_ways(facts: ServerFacts, connection: ServerConnection, primary: str | None) -> None:
    """Refuse at once where nobody archives, or where the primary cannot be asked.

    Raises ``ArchivingNotWorking``, ``ServerError``.
    """
    if not facts.is_in_recovery:
        check_archiving(facts)
        return
    if primary is None:
        return  # whether somebody archives is seen when its segments come, or do not
    with connect_primary(primary, connection, facts.system_identifier) as found:
        if not facts.archives and found.archives() is False:
            raise not_archiving(
                f"archive_mode is {facts.archive_mode} on this standby, and its primary does not "
                "archive either.",
                where="on",
            )


class Filling:
    """Of one backup, whose session is ``connection``'s."""

    def __init__(self, attempt: Attempt, connection: ServerConnection) -> None:
        self._attempt, self._connection = attempt, connection
        self._segment_size = attempt.facts.wal_segment_size
        self._primary = attempt.options.primary

    def begin(self, session: BackupSession, started: StartedBackup) -> None:
        """Have the segment ended in which the backup starts. Raises ``ServerError``."""
        if not started.from_standby:
            session.switch_wal()
        elif self._primary is not None:
            with self._open(self._primary) as primary:
                _check_timelines(primary, started)
                primary.finish_segment(started.start_lsn + 1, self._segment_size)

    def is_begun(self, session: BackupSession, started: StartedBackup) -> bool:
        """Whether the segment in which the backup starts is full: who waits for it now may be
        impatient. Raises ``ServerError``."""
        if not started.from_standby or self._primary is not None:
            return True
        full = started.start_lsn // self._segment_size * self._segment_size + self._segment_size
        return session.replayed() >= full

    @contextmanager
    def end(self, started: StartedBackup, stop_lsn: Lsn) -> Iterator[ServerConnection]:
        """Have the segment ended in which the backup stops; whom to ask about its archiver while
        the segment is waited for. ``pg_backup_stop`` has done it on any server but a standby."""
        if not started.from_standby or self._primary is None:
            yield self._connection
            return
        primary = self._ended_by_primary(self._primary, stop_lsn)
        if primary is None:
            yield self._connection
            return
        with primary:
            yield self._connection if self._attempt.facts.archives else primary.connection

    def patience_seconds(self, started: StartedBackup) -> float:
        """How long to wait for the last segment: nobody ends it on a standby without a primary
        but ``archive_timeout``, which is most often the same on both."""
        seconds = self._attempt.options.archive_timeout
        if started.from_standby and self._primary is None:
            seconds += self._attempt.facts.archive_timeout_seconds
        return seconds

    def check_content(self, session: BackupSession, started: StartedBackup, name: str) -> None:
        """That the segment ``name``, which is stored, is the standby's own, if it has it still.

        Raises ``WalConflict`` when another server's is stored under this name.
        """
        attempt = self._attempt
        if not started.from_standby or not self._wait_received(session, name):
            return
        try:
            content = (attempt.directory.path / "pg_wal" / name).read_bytes()
        except OSError:
            return  # removed or recycled already, or fetched from the repository in its turn
        try:
            key = attempt.layout.wal_file(name)
            header = read_whole_header(attempt.repository.store, key, attempt.repository.keyring)
        except ObjectNotFound:
            return
        host = attempt.options.host
        check_same(header, content, cluster=attempt.options.cluster, host=host)

    def _wait_received(self, session: BackupSession, name: str) -> bool:
        """Whether the standby has all of a segment, for which it gets a moment."""
        number = segment_of(name, self._segment_size) + 1
        end = segment_start_lsn(number, self._segment_size)
        deadline = time.monotonic() + _RECEIVED_SECONDS
        try:
            while session.replayed() < end:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
        except ServerError:
            return False  # the copy is made, and the server may be gone
        return True

    def _ended_by_primary(self, conninfo: str, stop_lsn: Lsn) -> Primary | None:
        """None, with a warning, when the primary cannot be asked: after a copy of hours, WAL may
        come all the same."""
        try:
            primary = self._open(conninfo)
            primary.finish_segment(stop_lsn, self._segment_size)
        except ServerError as error:
            self._attempt.progress.warn(
                f"{error} The copy is made, so the backup's last WAL segment is waited for."
            )
            return None
        return primary

    def _open(self, conninfo: str) -> Primary:
        system = self._attempt.facts.system_identifier
        return connect_primary(conninfo, self._connection, system)


def _check_timelines(primary: Primary, started: StartedBackup) -> None:
    written = primary.timeline
    if written != started.timeline:
        raise ServerError(
            f"The primary is on timeline {written}, and this standby's backup would begin on "
            f"timeline {started.timeline}.",
            why="After a failover the standby has to follow the new primary, and to replay a "
            "checkpoint of it.",
            remedy="Run CHECKPOINT on the primary, and the backup again when the standby has "
            "replayed it.",
        )
