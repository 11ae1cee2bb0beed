"""Every command against an S3 server, beside pgBackRest and WAL-G on the same server.

Without latency and with 20 ms added to each answer: a full backup, an incremental one after a
random update of 1 % of rows, a restore, a backlog of WAL that the server archives, and the recovery
that reads it.
"""

from __future__ import annotations

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
from bench.walg import WalG

DELAYS = (0, 20)
SHARE = 0.01
COMMANDS = ("backup", "incremental", "restore", "wal-push", "wal-fetch")
GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    """One command with one latency; seconds of wall clock, for WAL those of a segment.

    ``requests`` are pgkeep's, by GiB of the database that it backed up or restored; 0 for WAL.
    ``walg_seconds`` is None where there is no WAL-G.
    """

    command: str
    delay_ms: int
    pgkeep_seconds: float
    pgbackrest_seconds: float
    walg_seconds: float | None = None
    requests: float = 0.0


class ObjectBench:
    """The programs, each with a repository in the same bucket; ``walg`` is the path of WAL-G's."""

    def __init__(
        self, context: Context, program: Program, *, segments: int, walg: Path | None
    ) -> None:
        self._context, self._program, self._segments = context, program, segments
        self._walg = walg

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
        three = _Three(self._context, server, own, peer, self._walg_of(server, delay))
        full, requests_of_full = three.counted(three.backup)
        full_of_peer, full_of_walg = three.peer_backup("full"), three.walg_backup()
        update_rows(self._context, SHARE)
        # One after the other with all of it, so that none misses what another archived.
        incremental, requests = three.counted(three.incremental)
        mine = three.drain(self._segments)
        restored, requests_of_restore = three.counted(three.restore)
        recovered = three.recover(self._segments)
        incremental_of_peer = three.peer_backup("incr", stay=True)
        theirs = three.drain(self._segments)
        restored_by_peer = three.peer_restore()
        recovered_by_peer = three.recover(self._segments)
        walg = three.walg_rest(self._segments)
        return [
            Measured("backup", delay, full, full_of_peer, full_of_walg, requests_of_full),
            Measured(
                "incremental", delay, incremental, incremental_of_peer, walg.incremental, requests
            ),
            Measured(
                "restore", delay, restored, restored_by_peer, walg.restore, requests_of_restore
            ),
            Measured("wal-push", delay, mine, theirs, walg.push),
            Measured("wal-fetch", delay, recovered, recovered_by_peer, walg.fetch),
        ]

    def _walg_of(self, server: S3Server, delay: int) -> WalG | None:
        if self._walg is None:
            return None
        return WalG(self._context, self._walg, _walg_store(server, delay))

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


def _walg_store(server: S3Server, delay: int) -> dict[str, str]:
    return {
        "WALG_S3_PREFIX": f"s3://{BUCKET}/wal-g-{delay}",
        "AWS_ENDPOINT": server.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_S3_FORCE_PATH_STYLE": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "S3_CA_CERT_FILE": str(server.certificate),
    }


@dataclass(frozen=True)
class _OfWalg:
    """Seconds of WAL-G's commands; None where there is none."""

    incremental: float | None = None
    restore: float | None = None
    push: float | None = None
    fetch: float | None = None


@dataclass
class _Three:
    context: Context
    server: S3Server
    own: Pgkeep
    peer: PgBackRest
    walg: WalG | None

    def counted(self, own: Callable[[], float]) -> tuple[float, float]:
        """Seconds, and requests by GiB of the database."""
        before = self.server.requests()
        seconds = own()
        size = self._database_bytes()
        return seconds, (self.server.requests() - before) / (size / GIB)

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

    def walg_backup(self) -> float | None:
        """A full one; afterwards whoever archived before does it again."""
        if self.walg is None:
            return None
        own_command = self.context.server.sql("SHOW archive_command")
        self.walg.archive()
        seconds = self.walg.backup()
        self.context.server.archive_with(own_command)
        return seconds

    def walg_rest(self, segments: int) -> _OfWalg:
        """What follows the full backup, in the order of the others."""
        if self.walg is None:
            return _OfWalg()
        self.walg.archive()
        incremental = self.walg.backup()
        pushed = self.drain(segments)
        restored = self.walg.restore()
        return _OfWalg(incremental, restored, pushed, self.recover(segments))

    def drain(self, segments: int) -> float:
        """A backlog for whoever archives now."""
        command = self.context.server.sql("SHOW archive_command")
        return drain(self.context.server, command, segments=segments)

    def recover(self, segments: int) -> float:
        """What was restored last, to the end of WAL."""
        target = self.context.work / "restored"
        seconds = recover(self.context, target, segments=segments)
        empty(target)
        return seconds

    def _archive_with_peer(self) -> None:
        self.context.server.archive_with(" ".join(self.peer.command("archive-push", "%p")))

    def _run(self, command: list[str], env: dict[str, str], cwd: Path | None = None) -> Usage:
        return run_measured(command, env, work=self.context.work, cwd=cwd)

    def _database_bytes(self) -> int:
        base = self.context.pgdata / "base"
        return sum(path.stat().st_size for path in base.rglob("*") if path.is_file())
