"""Proof that WAL arrives in the repository: before the copy, so that a broken archive command
costs seconds and not hours, and after it, because a backup without its WAL is none.

The server's word is not taken for it (``pg_stat_archiver`` may praise another archive): the
segments are looked for where a restore will look for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pgkeep.errors import ArchivingNotWorking, ServerError
from pgkeep.postgres.connection import ServerConnection
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


def check_archiving(connection: ServerConnection) -> None:
    """Refuse at once when the server does not even try to archive.

    Raises ``ArchivingNotWorking``.
    """
    facts = connection.server_facts()
    if facts.archives:
        return
    where = "always" if facts.is_in_recovery else "on"
    raise ArchivingNotWorking(
        "The server does not archive its WAL, so no backup of it could be restored.",
        why=f"archive_mode is {facts.archive_mode}, archive_command is "
        f"{facts.archive_command or 'empty'!s}.",
        remedy=f"Set archive_mode = {where} (needs a restart) and archive_command = "
        "'pgkeep wal-push %p'; pgkeep setup prints all that is needed.",
    )


def wait_for_segments(
    repository: Repository,
    layout: Layout,
    names: Sequence[str],
    *,
    timeout_seconds: float,
    connection: ServerConnection,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when every segment is stored. The timeout starts again with each that arrives.

    Raises ``ArchivingNotWorking``, with what the server says of its last failure.
    """
    missing = set(names)
    deadline, pause = clock() + timeout_seconds, _FIRST_PAUSE_SECONDS
    while True:
        arrived = _stored(repository, layout, missing)
        if arrived:
            missing -= arrived
            deadline, pause = clock() + timeout_seconds, _FIRST_PAUSE_SECONDS
        if not missing:
            return
        if clock() >= deadline:
            raise _not_archived(sorted(missing), timeout_seconds, connection, repository)
        sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)


def _stored(repository: Repository, layout: Layout, names: set[str]) -> set[str]:
    """Which of the segments are there: one request for one, one listing for many neighbours."""
    if len(names) == 1:
        return {name for name in names if repository.store.exists(layout.wal_file(name))}
    found: set[str] = set()
    for group in {layout.wal_group(name) for name in names}:
        found |= {info.key.rpartition("/")[2] for info in repository.store.list(group)}
    return names & found


def _not_archived(
    missing: Sequence[str],
    waited: float,
    connection: ServerConnection,
    repository: Repository,
) -> ArchivingNotWorking:
    count = f"{len(missing)} segments, first {missing[0]}," if len(missing) > 1 else missing[0]
    return ArchivingNotWorking(
        f"WAL does not arrive in {repository.store.url}: {count} not there after {waited:.0f} s.",
        why=_archiver_says(connection),
        remedy="Read the server's log for the message of archive_command, mend it, and run the "
        "backup again. If archiving is only slow, raise PGKEEP_ARCHIVE_TIMEOUT.",
        missing=", ".join(missing[:20]),
    )


def _archiver_says(connection: ServerConnection) -> str:
    try:
        archived, failed, failed_count, at = connection.row(
            "SELECT last_archived_wal, last_failed_wal, failed_count, last_failed_time "
            "FROM pg_stat_archiver"
        )
    except ServerError as error:
        return f"The server could not be asked about its archiver ({error.what})."
    if failed_count:
        return (
            f"The server's archiver failed {failed_count} times, last for {failed} at {at}; "
            f"the last success was {archived or 'none'}."
        )
    if archived:
        return (
            f"The server says that it archived {archived} last, without failures: "
            "perhaps to another place or under another cluster name."
        )
    return "The server's archiver has done nothing so far."
