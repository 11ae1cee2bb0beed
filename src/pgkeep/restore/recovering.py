"""A trial server on its way through recovery: finding its superuser, and waiting for the end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pgkeep.errors import CheckFailed, ServerError
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.lsn import Lsn
from pgkeep.progress import Progress
from pgkeep.restore.trial import TrialServer

_PAUSE_SECONDS = 0.2
_STATE = """
SELECT pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
  pg_last_wal_replay_lsn()::text
"""


class Recovery:
    """Of the server in ``into``. ``users`` may be its superuser's name, the likeliest first;
    ``database`` is one that is there. ``replayed`` is how far WAL was replayed."""

    def __init__(
        self,
        server: TrialServer,
        into: Path,
        *,
        users: Iterable[str | None],
        database: str,
        start: Lsn,
        progress: Progress,
    ) -> None:
        self._server, self._into, self._progress = server, into, progress
        self._users = list(dict.fromkeys(str(user) for user in users if user))
        self._database = database
        self.replayed = start

    @property
    def user(self) -> str:
        """The superuser, once ``connect`` has found it."""
        return self._users[0]

    def connect(self) -> ServerConnection:
        """The first session that the server allows, as a superuser. Raises ``CheckFailed``."""
        for _ in self._ticks():
            for user in list(self._users):
                try:
                    connection = self._server.connect(self._database, user)
                except ServerError as error:
                    if f'role "{user}" does not exist' in str(error):
                        self._users.remove(user)
                    continue
                if _is_superuser(connection):
                    self._users = [user]
                    return connection
                connection.close()
                self._users.remove(user)
            if not self._users:
                raise CheckFailed(
                    f"The server in {self._into} was started, and could not be looked at.",
                    why="This backup does not say how its superuser is called.",
                    remedy="Start it by hand, and look; backups made from now on say it.",
                )
        raise AssertionError("unreachable")

    def wait(self, connection: ServerConnection) -> bool:
        """Until recovery is over; returns whether it is paused. Raises ``CheckFailed``."""
        for _ in self._ticks():
            try:
                recovering, paused, replayed = connection.row(_STATE)
            except ServerError:
                continue  # it ended between two questions; or the server is gone, which is noticed
            if replayed is not None and Lsn.parse(replayed) > self.replayed:
                at = Lsn.parse(replayed)
                self._progress.advance(at - self.replayed)
                self.replayed = at
            if paused or not recovering:
                return bool(paused)
        raise AssertionError("unreachable")

    def _ticks(self) -> Iterator[None]:
        """Endless as long as the server is there. Raises ``CheckFailed`` when it is not."""
        while not self._server.ended:
            yield
            time.sleep(_PAUSE_SECONDS)
        lines = self._server.said()
        bad = [line for line in lines if re.match(r"(FATAL|PANIC|ERROR)\b", line)] or lines
        said = "; ".join(" ".join(line.split()) for line in bad[-3:]) or "It said nothing"
        raise CheckFailed(
            f"The cluster was restored into {self._into}, and its server did not come "
            "through recovery.",
            why=f"It said: {said}.",
            remedy=f"The whole of it is in {self._server.log}.",
        )


def _is_superuser(connection: ServerConnection) -> bool:
    try:
        query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        return bool(connection.value(query))
    except ServerError:
        return True  # the server went away, which is found out soon
