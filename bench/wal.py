"""Archiving one segment at a time, as PostgreSQL's archiver asks for it: one process each.

The segments come from a load on the same server and lie in a directory of their own, so that
nothing is archived ahead and every process does the whole work of one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.context import Context
from bench.peers import BenchError
from bench.pgbackrest import PgBackRest
from bench.pgkeep import Pgkeep, Program
from bench.results import WalRow
from bench.watch import FirstRead, time_to_first_read

WARM_UP = 3


def measure_wal(context: Context, program: Program | None, *, count: int) -> list[WalRow]:
    """Push ``count`` segments with each program, one after the other, in turns."""
    home = context.work / "wal"
    segments = sorted((home / "pg_wal").iterdir())[: count + WARM_UP]
    peer = PgBackRest(context)
    peer.create()
    pushers: list[tuple[str, str, list[str], dict[str, str]]] = [
        ("pgbackrest", "pgbackrest archive-push", peer.command("archive-push"), {})
    ]
    if program is not None:
        own = Pgkeep(context, program, None, "wal")
        own.create()
        pushers.append(("pgkeep", "pgkeep wal-push", own.command("wal-push"), own.env))
    # Neither is the server's archive command now, so the server's own WAL does not mix in.
    context.server.archive_with("true")
    runs: dict[str, list[FirstRead]] = {key: [] for key, *_ in pushers}
    for segment in segments:
        for key, _, command, env in pushers:
            runs[key].append(_push(command, env, segment, home=home))
    return [_figures(key, title, runs[key][WARM_UP:]) for key, title, command, _ in pushers]


def _push(command: Sequence[str], env: dict[str, str], segment: Path, *, home: Path) -> FirstRead:
    return time_to_first_read([*command, str(segment)], env, path=segment, cwd=home)


def _figures(key: str, title: str, runs: list[FirstRead]) -> WalRow:
    reads = [run.read_seconds for run in runs if run.read_seconds is not None]
    if not reads:
        raise BenchError(f"{title} was never seen to read a segment.")
    return WalRow(key, title, f"{title} SEGMENT", [run.wall_seconds for run in runs], reads)
