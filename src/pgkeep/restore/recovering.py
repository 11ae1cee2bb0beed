"""A trial server on its way through recovery: finding its superuser, and waiting for the end."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pgkeep.errors import CheckFailed, ServerError
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.lsn import Lsn
from pgkeep.progress import Progress
from pgkeep.restore.trial import TrialServer

_PAUSE_SECONDS = 0.2
# RecoveryRequiresIntParameter() in src/backend/access/transam/xlogrecovery.c
_TOO_LOW = re.compile(
    r"(?P<name>\w+) = \d+ is a lower setting than on the primary server, where its value was "
    r"(?P<value>\d+)"
)
_STATE = """
SELECT pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
  pg_last_wal_replay_lsn()::text
"""


def likely_databases(server: Mapping[str, Any], without: Collection[str] = ()) -> list[str]:
    """Those that may let somebody in, the likeliest first. A cluster need not have ``postgres``.

    ``server`` are the facts that a backup's manifest has; ``without`` were left out."""
    known = server.get("databases")
    names = [str(one["name"]) for one in known] if isinstance(known, list) else []
    return [name for name in ("postgres", "template1", *names) if name not in without]


class Recovery:
    """Of the server in ``into``. ``users`` may be its superuser's name, ``databases`` may let him
    in, the likeliest first. ``replayed`` is how far WAL was replayed."""

    def __init__(
        self,
        server: TrialServer,
        into: Path,
        *,
        users: Iterable[str | None],
        databases: Iterable[str],
        start: Lsn,
        progress: Progress,
    ) -> None:
        self._server, self._into, self._progress = server, into, progress
        self._users = list(dict.fromkeys(str(user) for user in users if user))
        self._databases = list(dict.fromkeys(databases))
        self.replayed = start

    @property
    def user(self) -> str:
        """The superuser, once ``connect`` has found it."""
        return self._users[0]

    @property
    def database(self) -> str:
        """One that let us in, once there is one."""
        return self._databases[0]

    def connect(self) -> ServerConnection:
        """The first session that the server allows, as a superuser. Raises ``CheckFailed``."""
        ways = list(itertools.product(self._users, self._databases))
        for _ in self._ticks():
            refusals: list[str] = []
            for user, database in ways:
                try:
                    connection = self._server.connect(database, user)
                except ServerError as error:
                    said = (error.why or error.what).rstrip(".")
                    if not _is_about(said, user, database):
                        break  # it does not let in anybody yet
                    refusals.append(said)
                    continue
                if _is_superuser(connection):
                    self._users = [user]
                    self._databases.remove(database)
                    self._databases.insert(0, database)
                    return connection
                connection.close()
                refusals.append(f"{user} is no superuser")
            if len(refusals) == len(ways):
                raise CheckFailed(
                    f"The server in {self._into} was started, and could not be looked at.",
                    why=f"It lets no superuser in: {'; '.join(dict.fromkeys(refusals))}.",
                    remedy="Start it by hand, and look.",
                )
        raise AssertionError("unreachable")

    def wait(self) -> bool:
        """Until recovery is over; returns whether it is paused at its target. Raises
        ``CheckFailed``."""
        connection = self.connect()
        try:
            for _ in self._ticks():
                try:
                    recovering, paused, replayed = connection.row(_STATE)
                except ServerError:
                    # It ended between two questions; or the database was dropped, with all
                    # sessions in it; or the server is gone, which is noticed.
                    if connection.closed:
                        connection = self.connect()
                    continue
                if replayed is not None and Lsn.parse(replayed) > self.replayed:
                    at = Lsn.parse(replayed)
                    self._progress.advance(at - self.replayed)
                    self.replayed = at
                if paused:
                    self._refuse_too_low()
                if paused or not recovering:
                    return bool(paused)
        finally:
            connection.close()
        raise AssertionError("unreachable")

    def _refuse_too_low(self) -> None:
        """Raise ``CheckFailed`` if it pauses before its target, as a hot standby does where the
        original was given more than it has."""
        found = list(filter(None, map(_TOO_LOW.search, self._server.said())))
        if not found:
            return
        raise CheckFailed(
            f"The cluster was restored into {self._into}, and its recovery stopped before its "
            f"target, at {self.replayed}.",
            why=f"{found[-1][0]}.",
            remedy=f"Write {found[-1]['name']} = {found[-1]['value']} at the end of "
            f"{self._into / 'postgresql.auto.conf'}, and start it.",
        )

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


def _is_about(said: str, user: str, database: str) -> bool:
    """Whether this role or database is refused: it is not there, or lets nobody in."""
    return any(
        f'{kind} "{" ".join(name.split())}" ' in said
        for kind, name in (("role", user), ("database", database))
    )
