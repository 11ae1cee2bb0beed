"""Dumping a standby: what its replay breaks, and stopping replay in such a way that it goes on.

A standby ends queries that stand in the way of replay; pg_dump then fails with a conflict, and the
database is dumped once more, some times. Where that does not help, replay can be paused for the
run, if the user asks for it. The pause is kept by a small process of its own: it resumes replay
when our end of a pipe closes, and that happens also when we are killed. So a paused standby is
never left behind, as it is by tools that pause and resume from one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgkeep.errors import DumpError
from pgkeep.postgres.access import ServerAccess

_CONFLICT = "due to conflict with recovery"


def is_conflict(said: str) -> bool:
    """Whether a program failed because of replay, so that another try may do better."""
    return _CONFLICT in said


@contextmanager
def paused_replay(access: ServerAccess) -> Iterator[None]:
    """Replay is paused inside, and goes on afterwards, whatever happens. Raises ``DumpError``."""
    place = str(Path(__file__).resolve().parents[2])
    guard = subprocess.Popen(
        [sys.executable, "-m", "pgkeep.dump.replay_guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Neither Ctrl-C nor whoever kills our group shall reach it: it ends when we do.
        start_new_session=True,
        env={**access.environ, "PYTHONPATH": place},
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    said = ""
    try:
        print(json.dumps(dict(access.parameters)), file=guard.stdin, flush=True)
        said = guard.stdout.readline().strip()
        if said != "paused":
            raise DumpError(
                "Replay could not be paused on the standby.",
                why=f"{said or 'The process that keeps the pause ended.'}",
                remedy="Grant the role EXECUTE on pg_wal_replay_pause() and on "
                "pg_wal_replay_resume(), or leave --pause-replay out.",
            )
        yield
    finally:
        if not said:
            guard.terminate()  # it still waits, and looks at nothing else
        guard.stdin.close()
        end = guard.stdout.readline().strip()
        guard.wait()
        guard.stdout.close()
        if said == "paused" and end != "resumed":
            raise DumpError(
                "Replay may still be paused on the standby.",
                why=end or "The process that keeps the pause was ended.",
                remedy="Run there: SELECT pg_wal_replay_resume()",
            )
