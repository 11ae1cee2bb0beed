"""Proof that WAL arrives in the repository: while the copy begins, so that a broken archive command
costs a minute and not hours, and after it, because a backup without its WAL is none.

The server's word is not taken for it (``pg_stat_archiver`` may praise another archive): the
segments are looked for where a restore will look for them. Its denial is: while it has yet to
archive a segment, what is stored under that name may be of another server, or of a future that this
one has given up, and then its own is refused. Beyond that, what the server says decides only
how long to wait: an archiver that works off a backlog, and has not come to our segments yet,
is waited for as long as it gets on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import ArchivingNotWorking, LocalIOError, ServerError, StoreUnavailable
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.facts import ServerFacts
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_GLANCE_SECONDS = 0.01


class ArchiverState(NamedTuple):
    """``pg_stat_archiver`` at one moment."""

    archived_count: int
    last_archived: str | None
    archived_at: datetime | None
    failed_count: int
    last_failed: str | None
    failed_at: datetime | None
    in_recovery: bool

    def is_on_its_way(self, before: ArchiverState, segment: str) -> bool:
        """Whether it has archived something since ``before`` and not yet reached ``segment``.

        Segments are archived in the order of their names. One that was archived and is not in
        the repository went to another place, however busy the archiver is.
        """
        if self.archived_count == before.archived_count or self.last_archived is None:
            return False
        return self.last_archived[:24] < segment


def check_archiving(facts: ServerFacts) -> None:
    """Refuse at once when the server does not even try to archive.

    Raises ``ArchivingNotWorking``.
    """
    if facts.archives:
        return
    where = "always" if facts.is_in_recovery else "on"
    # The command itself is not shown: it may hold a password.
    command = "set" if facts.archive_command or facts.archive_library else "empty"
    raise not_archiving(
        f"archive_mode is {facts.archive_mode}, archive_command is {command}.", where=where
    )


def not_archiving(why: str, *, where: str) -> ArchivingNotWorking:
    """Nobody archives; ``where`` is what ``archive_mode`` has to be."""
    return ArchivingNotWorking(
        "The server does not archive its WAL, so no backup of it could be restored.",
        why=why,
        remedy=f"Set archive_mode = {where} (needs a restart) and archive_command = "
        "'pgkeep wal-push %p'; pgkeep setup prints all that is needed.",
    )


class Arrival:
    """The arrival of some segments: each of them stored, and none waiting to be archived.

    ``due`` is the folder in which the server notes what is (``pg_wal/archive_status``); without it
    only the repository is asked. The timeout starts again with each that arrives, and with each
    file that the archiver does before it comes to them. Used by one thread, that of ``connection``.
    """

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        names: Sequence[str],
        *,
        timeout_seconds: float,
        connection: ServerConnection,
        due: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository, self._layout, self._due = repository, layout, due
        self._connection, self._clock = connection, clock
        self._missing = set(names)
        self._timeout = timeout_seconds
        self._deadline, self._pause = clock() + timeout_seconds, _FIRST_PAUSE_SECONDS
        self._archiver = _archiver_state(connection)
        self._asked = clock()

    def look(self) -> float | None:
        """Seconds until another look is worth while; None when all are there.

        Raises ``ArchivingNotWorking``, with what the server says of its last failure,
        ``LocalIOError``, and ``StoreUnavailable``, after which another look may be taken.
        """
        try:
            arrived = self._arrived()
        except StoreUnavailable:
            # Nothing can arrive meanwhile, for which the archiver is not to blame.
            self._deadline = self._clock() + self._timeout
            raise
        self._missing -= arrived
        if not self._missing:
            return None
        before, self._archiver = self._archiver, _archiver_state(self._connection)
        now, archiver = self._clock(), self._archiver
        on_its_way = before and archiver and archiver.is_on_its_way(before, min(self._missing))
        if arrived or on_its_way:
            self._deadline = now + self._timeout
        if now >= self._deadline:
            url = self._repository.store.url
            raise _not_archived(sorted(self._missing), self._timeout, archiver=archiver, url=url)
        longer = min(self._pause * 1.5, _LONGEST_PAUSE_SECONDS)
        self._pause = _FIRST_PAUSE_SECONDS if arrived else longer
        return self._pause

    def wait(
        self, *, keepalive: Callable[[], object], sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """Return when all are there; ``keepalive`` is called at every look. Raises as ``look``."""
        while (pause := self.look()) is not None:
            self._rest(pause, sleep)
            keepalive()

    def _arrived(self) -> set[str]:
        """As :func:`_arrived`. While the server notes that it has yet to archive the first that is
        missing, and so those after it, the repository is asked once a second: it may be away."""
        now = self._clock()
        if now - self._asked < _LONGEST_PAUSE_SECONDS and _is_due(self._due, min(self._missing)):
            return set()
        self._asked = now
        return _arrived(self._repository, self._layout, self._missing, self._due)

    def _rest(self, seconds: float, sleep: Callable[[float], object]) -> None:
        """Sleep, until the server has archived the last segment at the longest.

        To see that in its notes costs next to nothing, so it is seen at once; what is in the
        repository is for :meth:`look` to say.
        """
        last = max(self._missing)
        if not _is_due(self._due, last):
            sleep(seconds)
            return
        for _ in range(math.ceil(seconds / _GLANCE_SECONDS)):
            sleep(_GLANCE_SECONDS)
            if not _is_due(self._due, last):
                return


def _is_due(due: Path | None, name: str) -> bool:
    """Whether the server notes that it has yet to archive a segment; False if nobody can say."""
    try:
        return due is not None and (due / f"{name}.ready").exists()
    except OSError:
        return False


def _arrived(repository: Repository, layout: Layout, names: set[str], due: Path | None) -> set[str]:
    """Which of the segments are stored, and are this server's as far as it knows.

    The server makes the note when a segment is full, before it says so, and renames it when
    the archive command has succeeded.
    """
    stored = _stored(repository, layout, names)
    if due is None:
        return stored
    try:
        return {name for name in stored if not (due / f"{name}.ready").exists()}
    except OSError as error:
        raise LocalIOError(
            f"{due} cannot be looked into.",
            why=f"{error.strerror}.",
            remedy="Run pgkeep as the owner of the data directory, or as root.",
            path=str(due),
        ) from error


def _stored(repository: Repository, layout: Layout, names: set[str]) -> set[str]:
    """Which of the segments are there: one request for one, one listing for many neighbours."""
    if len(names) == 1:
        return {name for name in names if repository.store.exists(layout.wal_file(name))}
    found: set[str] = set()
    for group in {layout.wal_group(name) for name in names}:
        found |= {info.key.rpartition("/")[2] for info in repository.store.list(group)}
    return names & found


def _archiver_state(connection: ServerConnection) -> ArchiverState | None:
    """None when the server cannot be asked: after the backup's end it may stop, and its archiver
    still finishes its work."""
    try:
        row = connection.row(
            "SELECT archived_count, last_archived_wal, last_archived_time, failed_count, "
            "last_failed_wal, last_failed_time, pg_is_in_recovery() FROM pg_stat_archiver"
        )
    except ServerError:
        return None
    return ArchiverState(*row)


def _not_archived(
    missing: Sequence[str], waited: float, *, archiver: ArchiverState | None, url: str
) -> ArchivingNotWorking:
    count = f"{len(missing)} segments, first {missing[0]}," if len(missing) > 1 else missing[0]
    return ArchivingNotWorking(
        f"WAL does not arrive in {url}: {count} not archived after {waited:.0f} s.",
        why=_archiver_says(archiver),
        remedy=_remedy(archiver),
        missing=", ".join(missing[:20]),
    )


def _archiver_says(state: ArchiverState | None) -> str:
    if state is None:
        return "The server could not be asked about its archiver."
    done = state.last_archived or "none"
    if state.failed_at and (state.archived_at is None or state.failed_at > state.archived_at):
        return (
            f"The server's archiver failed {state.failed_count} times, last for "
            f"{state.last_failed} at {state.failed_at:%Y-%m-%d %H:%M:%S %Z}; "
            f"the last success was {done}."
        )
    if state.last_archived:
        return (
            f"The server says that it archived {done} last, without failing since: "
            "perhaps to another place or under another cluster name."
        )
    return "The server's archiver has done nothing so far."


def _remedy(state: ArchiverState | None) -> str:
    if state is not None and state.in_recovery:
        return (
            "A standby cannot finish a WAL segment: run SELECT pg_switch_wal() on the primary, and "
            "the backup again. To have that done by the backup, set PGKEEP_PRIMARY to a connection "
            "string of the primary. If its segments do not arrive, look into its log."
        )
    return (
        "Read the server's log for the message of archive_command, mend it, and run the "
        "backup again. If archiving is only slow, raise PGKEEP_ARCHIVE_TIMEOUT."
    )
