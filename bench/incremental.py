"""Incremental backups beside pgBackRest's block incremental: what changes cost.

Both make a full backup, then after each change (nothing; random updates of 0.1, 1 and 10 % of
pgbench's accounts) an incremental one, of the same database at the same moment. The least that can
be stored is counted apart: every page is hashed before and after, and those that differ are
compressed in blocks of 1 MiB. Then thirty more increments, and a restore of the last beside one of
a full backup; and a backup of a hundred thousand files of which none changed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from bench.context import Context, check_restored, empty, size_of
from bench.database import DATABASE
from bench.measure import Usage, run_measured
from bench.pgbackrest import PgBackRest
from bench.pgkeep import Pgkeep, Program, reported
from bench.raw_limit import PIECE_BYTES, list_pieces
from bench.server import run_tool

PAGE = 8192
PARTS = ("steps", "restore", "idle")
SHARES = (0.0, 0.001, 0.01, 0.1)
INCREMENTS = 30
FILES = 100_000
_SETTLE_SECONDS = 62


@dataclass(frozen=True)
class Step:
    """One change, and what each program made of it. Seconds are wall clock; of several rounds,
    each figure is the median."""

    share: float
    differing_pages: int
    least_bytes: int
    pgkeep_seconds: float
    pgkeep_bytes: int
    pgbackrest_seconds: float
    pgbackrest_bytes: int


class Incrementals:
    """Both programs, backing up one server."""

    def __init__(self, context: Context, program: Program) -> None:
        self._context = context
        self._own = Pgkeep(context, program, None, "incremental")
        self._peer = PgBackRest(context)
        self._archive_command = ""

    def run(self, *, rounds: int, only: Sequence[str] = PARTS) -> dict[str, Any]:
        """The parts of the benchmark, in order."""
        self._prepare()
        found: dict[str, Any] = {}
        if "steps" in only:
            measured = [
                self._step(number, share)
                for number, share in enumerate(share for _ in range(rounds) for share in SHARES)
            ]
            found["steps"] = [
                asdict(_median([step for step in measured if step.share == share]))
                for share in SHARES
            ]
        if "restore" in only:
            found["restore"] = self._restores()
        if "idle" in only:
            found["idle"] = self._idle()
        return found

    def _prepare(self) -> None:
        self._own.create()
        own = self._archive_command = self._context.server.sql("SHOW archive_command")
        self._peer.create()
        peer = self._context.server.sql("SHOW archive_command")
        self._context.server.archive_with(f"{own} && {peer}")
        # What was written less than a minute before a backup is read by the next one, too. A
        # database that is backed up day by day is older than that.
        time.sleep(_SETTLE_SECONDS)
        self._backup()
        self._peer_backup("full")

    def _step(self, number: int, share: float) -> Step:
        before = dict(self._hashes())
        if share:
            update_rows(self._context, share)
        self._context.settle()
        pages, least = self._difference(before)
        if number % 2:
            usage, stored = self._backup()
            peer_usage, peer_stored = self._peer_backup("incr")
        else:
            peer_usage, peer_stored = self._peer_backup("incr")
            usage, stored = self._backup()
        step = Step(
            share,
            pages,
            least,
            round(usage.wall_seconds, 2),
            stored,
            round(peer_usage.wall_seconds, 2),
            peer_stored,
        )
        print(step, flush=True)
        return step

    def _backup(self, *options: str) -> tuple[Usage, int]:
        usage = run_measured(
            self._own.command("backup", *self._own.options(), *options, "--json"),
            self._own.env,
            work=self._context.work,
            server_cpu=self._context.server.children_cpu_seconds,
        )
        facts = reported(usage.output)
        return usage, int(str(facts["added_bytes"]))

    def _peer_backup(self, kind: str) -> tuple[Usage, int]:
        before = size_of(self._peer.repository / "backup")
        usage = run_measured(
            self._peer.command(f"--type={kind}", "backup"),
            {},
            work=self._context.work,
            server_cpu=self._context.server.children_cpu_seconds,
        )
        return usage, size_of(self._peer.repository / "backup") - before

    def _restores(self) -> dict[str, float]:
        """Of a full backup, and of one after thirty increments of 1 % each; medians of three."""
        # From here on pgkeep is alone, and need not wait for the other's archiving.
        self._context.server.archive_with(self._archive_command)
        for _ in range(INCREMENTS):
            update_rows(self._context, 0.01)
            self._backup()
        layered = [self._restore() for _ in range(3)]
        self._backup("--full")
        full = [self._restore() for _ in range(3)]
        return {
            "increments": INCREMENTS,
            "full_seconds": round(statistics.median(full), 2),
            "layered_seconds": round(statistics.median(layered), 2),
        }

    def _restore(self) -> float:
        target = empty(self._context.work / "restored")
        self._context.settle()
        usage = run_measured(
            self._own.command(
                "restore",
                "--latest",
                "--into",
                str(target),
                f"--jobs={self._context.processes}",
                "--json",
            ),
            self._own.owner_env,
            work=self._context.work,
        )
        check_restored(self._context, target)
        empty(target)
        return usage.wall_seconds

    def _idle(self) -> dict[str, Any]:
        """A backup of which nothing changed, of very many files."""
        server = self._context.server
        server.sql("CREATE DATABASE crowded")
        script = "\n".join(
            f"CREATE TABLE t{number} (i int PRIMARY KEY);" for number in range(FILES // 2)
        )
        run_tool(
            [self._context.peers.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"],
            {**server.env, "PGDATABASE": "crowded", "PGOPTIONS": "-c synchronous_commit=off"},
            stdin=f"{script}\nCHECKPOINT;",
        )
        time.sleep(_SETTLE_SECONDS)
        self._backup()
        usages = [self._backup()[0] for _ in range(3)]
        files = sum(1 for path in self._context.pgdata.rglob("*") if path.is_file())
        server.sql("DROP DATABASE crowded")  # the database may be kept for the next run
        return {
            "files": files,
            "seconds": round(statistics.median(usage.wall_seconds for usage in usages), 2),
            "peak_mib": max(usage.peak_process_bytes for usage in usages) >> 20,
        }

    # -- what really changed ----------------------------------------------------------------------

    def _hashes(self) -> Iterator[tuple[tuple[str, int], bytes]]:
        """A hash of each page of the database, by (file, page)."""
        from blake3 import blake3

        for path, number, page in self._pages():
            yield (path, number), blake3(page).digest(8)

    def _pages(self) -> Iterator[tuple[str, int, bytes]]:
        pgdata = self._context.pgdata
        for piece in list_pieces(pgdata):
            if not piece.path.startswith("base/"):
                continue
            with (pgdata / piece.path).open("rb") as file:
                file.seek(piece.offset)
                data = file.read(PIECE_BYTES)
            for start in range(0, len(data), PAGE):
                yield piece.path, (piece.offset + start) // PAGE, data[start : start + PAGE]

    def _difference(self, before: dict[tuple[str, int], bytes]) -> tuple[int, int]:
        """(pages that differ, their size compressed in blocks of 1 MiB at our level)."""
        from blake3 import blake3
        from zstandard import ZstdCompressor

        compressor = ZstdCompressor(level=1)
        differing = least = 0
        waiting = b""
        for path, number, page in self._pages():
            if before.get((path, number)) != blake3(page).digest(8):
                differing += 1
                waiting += page
                if len(waiting) >= PIECE_BYTES:
                    least += len(compressor.compress(waiting))
                    waiting = b""
        return differing, least + (len(compressor.compress(waiting)) if waiting else 0)


def update_rows(context: Context, share: float) -> None:
    """Random rows, each once; autovacuum is off, so pages change through updates alone."""
    run_tool(
        [context.peers.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"],
        {**context.server.env, "PGDATABASE": DATABASE},
        stdin="UPDATE pgbench_accounts SET abalance = abalance + 1 "
        f"WHERE random() < {share}; CHECKPOINT; SELECT pg_switch_wal();",
    )
    context.server.wait_until_archived()


def _median(steps: Sequence[Step]) -> Step:
    columns = zip(*(astuple(step) for step in steps), strict=True)
    return Step(*(statistics.median_low(column) for column in columns))


def report(
    found: dict[str, Any], *, machine: str, versions: dict[str, str], size: int, rounds: int
) -> str:
    """The page, as Markdown."""
    measured = "measured once" if rounds == 1 else f"medians of {rounds} rounds"
    rows = [
        "| changed rows | pages that differ | least that can be stored | pgkeep | stored | "
        "pgBackRest | stored | time | stored, against the least |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for step in found["steps"]:
        least = step["least_bytes"]
        rows.append(
            f"| {step['share']:.1%} | {step['differing_pages']} | {_mib(least)} "
            f"| {step['pgkeep_seconds']:.2f} s | {_mib(step['pgkeep_bytes'])} "
            f"| {step['pgbackrest_seconds']:.2f} s | {_mib(step['pgbackrest_bytes'])} "
            f"| {step['pgkeep_seconds'] / step['pgbackrest_seconds']:.2f} × "
            f"| {_ratio(step['pgkeep_bytes'], least)} |"
        )
    restore, idle = found["restore"], found["idle"]
    programs = ", ".join(f"{name} {number}" for name, number in versions.items())
    return "\n".join(
        [
            "# Benchmarks of incremental backups",
            "",
            f"A database of {size / (1 << 30):.1f} GiB, two workers each: {programs}. {machine} "
            "This page is written by `make bench ARGS=--incremental`.",
            "",
            "pgkeep at its default level, sealed; pgBackRest with block incremental and bundles, "
            "zst 3, not encrypted. Random rows of pgbench_accounts are updated, then both back up, "
            f"in turn first and second; {measured}. The least that can be stored "
            "is every page whose content differs, compressed in blocks of 1 MiB at pgkeep's "
            "level.",
            "",
            *rows,
            "",
            f"Restore of a full backup: {restore['full_seconds']:.2f} s; of one after "
            f"{restore['increments']} increments of 1 % of rows each: "
            f"{restore['layered_seconds']:.2f} s "
            f"({restore['layered_seconds'] / restore['full_seconds']:.2f} ×). Medians of three.",
            "",
            f"A backup of {idle['files']} files of which nothing changed: {idle['seconds']:.2f} s, "
            f"{idle['peak_mib']} MiB of memory. Median of three.",
            "",
        ]
    )


def save(found: dict[str, Any], page: str, *, docs: Path) -> None:
    """Write the page and the figures behind it."""
    (docs / "benchmarks" / "incremental.json").write_text(json.dumps(found, indent=1) + "\n")
    (docs / "benchmarks-incremental.md").write_text(page)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _ratio(size: int, least: int) -> str:
    return f"{size / least:.2f} ×" if least > 1 << 20 else "–"
