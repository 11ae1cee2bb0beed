"""Every command against an S3 server, beside pgBackRest on the same server.

Without latency and with 20 ms added to each answer: a full backup, an incremental one after a
random update of 1 % of rows, a restore, a backlog of WAL that the server archives, and the recovery
that reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.context import Context, check_restored, empty
from bench.incremental import update_rows
from bench.measure import Usage, run_measured
from bench.pgbackrest import PgBackRest
from bench.pgkeep import Pgkeep, Program, reported
from bench.s3_server import BUCKET, KEY, SECRET, S3Server, running_s3
from bench.wal_backlog import drain, recover

DELAYS = (0, 20)
SHARE = 0.01
COMMANDS = ("backup", "incremental", "restore", "wal-push", "wal-fetch")
_GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    """One command with one latency; seconds of wall clock, for WAL those of a segment.

    ``requests`` are pgkeep's, by GiB of the database that it backed up or restored; 0 for WAL.
    """

    command: str
    delay_ms: int
    pgkeep_seconds: float
    pgbackrest_seconds: float
    requests: float = 0.0


class ObjectBench:
    """Both programs, each with a repository in the same bucket."""

    def __init__(self, context: Context, program: Program, *, segments: int) -> None:
        self._context, self._program, self._segments = context, program, segments

    def run(self) -> list[dict[str, Any]]:
        """All commands with all latencies."""
        found: list[Measured] = []
        with running_s3(self._context.work) as server:
            for delay in DELAYS:
                server.delay(delay)
                for one in self._measure(server, delay):
                    print(one, flush=True)
                    found.append(one)
            # A server that stops waits for its archiver, which would wait for this store.
            self._context.server.archive_with("true")
        return [asdict(one) for one in found]

    def _measure(self, server: S3Server, delay: int) -> Sequence[Measured]:
        own = Pgkeep(
            self._context, self._program, None, f"s3-{delay}", self._own_store(server, delay)
        )
        peer = PgBackRest(self._context, store=_peer_store(server, delay))
        both = _Both(self._context, server, own, peer, self._segments)
        found = [both.command("backup", delay, both.backup, lambda: both.peer_backup("full"))]
        update_rows(self._context, SHARE)
        # One after the other with all of it, so that neither misses what the other archived.
        incremental, requests = both.counted(both.incremental)
        mine = both.drain()
        restored, requests_of_restore = both.counted(both.restore)
        recovered = both.recover()
        incremental_of_peer = both.peer_backup("incr", stay=True)
        theirs = both.drain()
        restored_by_peer = both.peer_restore()
        return [
            *found,
            Measured("incremental", delay, incremental, incremental_of_peer, requests),
            Measured("restore", delay, restored, restored_by_peer, requests_of_restore),
            Measured("wal-push", delay, mine, theirs),
            Measured("wal-fetch", delay, recovered, both.recover()),
        ]

    def _own_store(self, server: S3Server, delay: int) -> dict[str, str]:
        return {
            "PGKEEP_REPO": f"s3://{BUCKET}/pgkeep-{delay}",
            "PGKEEP_ENDPOINT": server.endpoint,
            "PGKEEP_ACCESS_KEY_ID": KEY,
            "PGKEEP_SECRET_ACCESS_KEY": SECRET,
            "PGKEEP_CA_FILE": str(server.certificate),
        }


def _peer_store(server: S3Server, delay: int) -> dict[str, object]:
    return {
        "repo1-type": "s3",
        "repo1-path": f"/pgbackrest-{delay}",
        "repo1-s3-bucket": BUCKET,
        "repo1-s3-endpoint": "127.0.0.1",
        "repo1-storage-port": server.port,
        "repo1-s3-region": "us-east-1",
        "repo1-s3-uri-style": "path",
        "repo1-s3-key": KEY,
        "repo1-s3-key-secret": SECRET,
        "repo1-storage-ca-file": server.certificate,
    }


@dataclass
class _Both:
    context: Context
    server: S3Server
    own: Pgkeep
    peer: PgBackRest
    segments: int

    def command(
        self, name: str, delay: int, own: Callable[[], float], peer: Callable[[], float]
    ) -> Measured:
        """Run it with both, one after the other."""
        seconds, requests = self.counted(own)
        return Measured(name, delay, seconds, peer(), requests)

    def counted(self, own: Callable[[], float]) -> tuple[float, float]:
        """Seconds, and requests by GiB of the database."""
        before = self.server.requests()
        seconds = own()
        size = self._database_bytes()
        return seconds, (self.server.requests() - before) / (size / _GIB)

    def backup(self) -> float:
        self.own.create()
        return self.incremental()

    def incremental(self) -> float:
        self.context.settle()
        usage = self._run(self.own.command("backup", *self.own.options(), "--json"), self.own.env)
        assert reported(usage.output)
        return usage.wall_seconds

    def peer_backup(self, kind: str, *, stay: bool = False) -> float:
        """``stay``, it archives from then on, too."""
        own_command = self.context.server.sql("SHOW archive_command")
        if kind == "full":
            self.peer.create()
        else:
            self._archive_with_peer()
        self.context.settle()
        usage = self._run(self.peer.command(f"--type={kind}", "backup"), {})
        if not stay:
            self.context.server.archive_with(own_command)
        return usage.wall_seconds

    def restore(self) -> float:
        target = empty(self.context.work / "restored")
        self.context.settle()
        words = ["restore", "--latest", "--into", str(target), "--json"]
        command = self.own.command(*words, f"--jobs={self.context.processes}")
        usage = self._run(command, self.own.owner_env)
        check_restored(self.context, target)
        return usage.wall_seconds

    def peer_restore(self) -> float:
        target = empty(self.context.work / "restored")
        self.context.settle()
        usage = self._run(self.peer.command(f"--pg1-path={target}", "restore"), {})
        check_restored(self.context, target)
        return usage.wall_seconds

    def drain(self) -> float:
        """A backlog for whoever archives now."""
        command = self.context.server.sql("SHOW archive_command")
        return drain(self.context.server, command, segments=self.segments)

    def recover(self) -> float:
        """What was restored last, to the end of WAL."""
        target = self.context.work / "restored"
        seconds = recover(self.context, target, segments=self.segments)
        empty(target)
        return seconds

    def _archive_with_peer(self) -> None:
        self.context.server.archive_with(" ".join(self.peer.command("archive-push", "%p")))

    def _run(self, command: list[str], env: dict[str, str], cwd: Path | None = None) -> Usage:
        return run_measured(command, env, work=self.context.work, cwd=cwd)

    def _database_bytes(self) -> int:
        base = self.context.pgdata / "base"
        return sum(path.stat().st_size for path in base.rglob("*") if path.is_file())


def report(
    found: list[dict[str, Any]], *, machine: str, versions: dict[str, str], size: int
) -> str:
    """The page, as Markdown."""
    rows = [
        "| command | latency | pgkeep | pgBackRest | time | requests of pgkeep by GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        ratio = one["pgkeep_seconds"] / one["pgbackrest_seconds"]
        requests = f"{one['requests']:.0f}" if one["requests"] else "–"
        rows.append(
            f"| {one['command']} | {one['delay_ms']} ms | {_shown(one['pgkeep_seconds'])} "
            f"| {_shown(one['pgbackrest_seconds'])} | {ratio:.2f} × | {requests} |"
        )
    programs = ", ".join(f"{name} {number}" for name, number in versions.items())
    return "\n".join(
        [
            "# Benchmarks on an object store",
            "",
            f"A database of {size / _GIB:.1f} GiB and a MinIO server beside it, over TLS through "
            f"a proxy that adds the latency to each answer: {programs}. {machine} "
            "This page is written by `make bench ARGS=--objects`.",
            "",
            "pgkeep at its defaults, sealed; pgBackRest with bundles and block incremental, zst 3, "
            "not encrypted; two workers each. The incremental backup follows an update of 1 % of "
            "rows at random. WAL: the server's archiver works off a backlog, and a restored server "
            "recovers from it; seconds for each segment. A full backup counts the requests of "
            "`init`, too.",
            "",
            *rows,
            "",
        ]
    )


def save(found: list[dict[str, Any]], page: str, *, docs: Path) -> None:
    """Write the page and the figures behind it."""
    (docs / "benchmarks" / "objects.json").write_text(json.dumps(found, indent=1) + "\n")
    (docs / "benchmarks-objects.md").write_text(page)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
