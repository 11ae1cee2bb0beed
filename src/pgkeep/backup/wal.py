"""The WAL of one backup: it is seen to arrive while the copy runs, and waited for at its end."""

from __future__ import annotations

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.filling import Filling
from pgkeep.backup.hash_cache import HashWriter
from pgkeep.backup.pins import Pin
from pgkeep.backup.proof import Arrival
from pgkeep.errors import StoreUnavailable
from pgkeep.postgres.backup_session import BackupSession, StartedBackup, StoppedBackup
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import segments_between


class BackupWal:
    """Of one backup, whose session is ``connection``'s."""

    def __init__(
        self, attempt: Attempt, connection: ServerConnection, pin: Pin, cache: HashWriter
    ) -> None:
        self._attempt, self._connection = attempt, connection
        self._pin, self._cache = pin, cache
        self._filling = Filling(attempt, connection)
        self._proof: Arrival | None = None
        self._unproved: StartedBackup | None = None

    def begin(self, session: BackupSession, started: StartedBackup) -> None:
        """Have the segment archived in which the backup starts. Raises ``ServerError``."""
        self._filling.begin(session, started)
        self._unproved = started

    def look(self, session: BackupSession) -> float | None:
        """Whether WAL arrives; seconds until another look, None when that is certain, or when
        nothing can have arrived yet.

        The copy need not wait for it, and what is copied before a refusal is not lost. Nor is a
        store waited for that does not answer, since the session has to be looked after.
        """
        started = self._unproved
        if started is not None and self._filling.is_begun(session, started):
            self._proof = self._arrival(started, started.start_lsn, impatient=True)
            self._unproved = None
        if self._proof is None:
            return None
        try:
            pause = self._proof.look()
        except StoreUnavailable:
            return None
        if pause is None:
            self._proof = None
        return pause

    def wait(self, session: BackupSession, started: StartedBackup, stopped: StoppedBackup) -> None:
        """Until all WAL of the backup is stored. Raises as ``Arrival.wait``, ``WalConflict``."""
        attempt, stop = self._attempt, stopped.stop_lsn
        last = self._segments(started, stop)[-1]
        attempt.progress.phase(
            f"waiting for {last} to be archived (SELECT pg_switch_wal() on the primary ends it)"
            if started.from_standby and attempt.options.primary is None
            else "waiting for the backup's last WAL to arrive"
        )
        with self._filling.end(started, stop) as archiver:
            arrival = self._arrival(
                started,
                stop,
                archiver=archiver,
                seconds=self._filling.patience_seconds(started),
            )
            self._cache.save()  # it is of this attempt, which need not become a backup
            arrival.wait(keepalive=self._pin.renew)
        self._filling.check_content(session, started, last)

    def _segments(self, started: StartedBackup, stop: Lsn) -> list[str]:
        size = self._attempt.facts.wal_segment_size
        return list(segments_between(started.start_lsn, stop, started.timeline, size))

    def _arrival(
        self,
        started: StartedBackup,
        stop: Lsn,
        *,
        impatient: bool = False,
        archiver: ServerConnection | None = None,
        seconds: float | None = None,
    ) -> Arrival:
        """Of the WAL from the start to ``stop``. ``impatient``, the store is asked once a look."""
        attempt = self._attempt
        store = attempt.repository.store
        # What a standby has yet to archive, its primary may have.
        due = None if started.from_standby else attempt.directory.path / "pg_wal/archive_status"
        return Arrival(
            attempt.repository._replace(store=store.impatient() if impatient else store),
            attempt.layout,
            self._segments(started, stop),
            timeout_seconds=attempt.options.archive_timeout if seconds is None else seconds,
            connection=archiver or self._connection,
            due=due,
        )
