"""The process that keeps replay paused on a standby while its parent lives; see ``replay.py``.

Standard input: one line, libpq's parameters as JSON; then nothing until its end, at which replay is
resumed. Standard output: ``paused`` or why not, and at the end ``resumed`` or why not.

Where replay is paused already somebody else wants it so: it is left as it is, now and at the end.

Replay is not paused while it holds an exclusive lock on a table: the dump would wait for that lock
until replay goes on, and that for the dump.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress

from pgkeep.errors import PgkeepError
from pgkeep.postgres.connection import ServerConnection, connect

_LOCKED = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
_STATE = "SELECT pg_get_wal_replay_pause_state()"
_WAIT_SECONDS = 0.5
_LONGEST_SECONDS = 3600.0
_RESUME_TRIES = 60


def main() -> int:
    """Pause, wait for the end of standard input, resume."""
    parameters = json.loads(sys.stdin.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    pause = _Pause()
    try:
        connection = connect(parameters)
        pause.begin(connection)
    except (PgkeepError, _Ended) as error:
        _tell(" ".join(str(error).split()) or "It was stopped.")
        _resume(parameters, pause)
        return 1
    _tell("paused")
    with suppress(_Ended):
        sys.stdin.read()
    return _resume(parameters, pause)


class _Pause:
    """``is_ours`` says whether replay may stand still because of us."""

    is_ours = False

    def begin(self, connection: ServerConnection) -> None:
        """Return when replay stands still and locks nothing. Raises ``ServerError``."""
        end = time.monotonic() + _LONGEST_SECONDS
        while time.monotonic() < end:
            if connection.value("SELECT pg_is_wal_replay_paused()"):
                return
            if not connection.value(_LOCKED):
                self.is_ours = True
                connection.rows("SELECT pg_wal_replay_pause()")
                while connection.value(_STATE) == "pause requested":
                    time.sleep(0.05)
                # What was replayed between the two looks may have locked a table.
                if not connection.value(_LOCKED):
                    return
                connection.rows("SELECT pg_wal_replay_resume()")
                self.is_ours = False
            time.sleep(_WAIT_SECONDS)
        raise PgkeepError("Replay holds exclusive locks on tables, and goes on doing so.")


def _resume(parameters: dict[str, str], pause: _Pause) -> int:
    """In a session of its own: that by which it was paused may be gone. A server that is no standby
    any more, or was started anew, pauses nothing."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not pause.is_ours:
        _tell("resumed")
        return 0
    why = ""
    for _ in range(_RESUME_TRIES):
        try:
            with connect(parameters) as connection:
                if connection.value("SELECT pg_is_in_recovery()"):
                    connection.rows("SELECT pg_wal_replay_resume()")
                _tell("resumed")
                return 0
        except PgkeepError as error:
            why = " ".join(str(error).split())
            time.sleep(1)
    _tell(why)
    return 1


def _tell(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody is there to hear it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Ended(Exception):
    pass


def _end(_number: int, _frame: object) -> None:
    raise _Ended


if __name__ == "__main__":
    sys.exit(main())
