"""``pg_backup_start``, called while the last backup is looked into.

The server makes a checkpoint first: a fraction of a second, or minutes when it was asked to spread
it. What a backup compares with is read meanwhile, which takes as long where the store is far away
or the cluster large, and needs nothing from the server.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.prepare import boot_facts
from pgkeep.postgres.backup_session import BackupSession, StartedBackup


class _Begun(NamedTuple):
    started: StartedBackup
    boot: dict[str, Any]


class Beginning:
    """The start of a backup, under way. Use it in a ``with``, within that of the session, and leave
    the session alone until :meth:`wait` has returned."""

    def __init__(self, attempt: Attempt, session: BackupSession) -> None:
        self._attempt, self._session = attempt, session
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="begin")
        self._begun = self._pool.submit(self._begin)

    def wait(self) -> StartedBackup:
        """The backup that has begun. Raises as :meth:`BackupSession.start`, and
        ``LocalIOError``."""
        begun = self._begun.result()
        self._attempt.boot = begun.boot
        return begun.started

    def _begin(self) -> _Begun:
        attempt, before = self._attempt, time.monotonic()
        started = self._session.start(f"pgkeep {attempt.id}", not attempt.options.spread_checkpoint)
        # At once: the time of pg_control, less what the call took, is not after the call.
        return _Begun(started, boot_facts(attempt.directory.path, time.monotonic() - before))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._begun.done():
            self._session.abandon()
        self._pool.shutdown(wait=True)
