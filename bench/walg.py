"""WAL-G on an S3 server, set up for a comparison: zstd, page checksums verified, deltas on.

Debian has no package of it and nothing here builds it, so it is measured where a ``wal-g`` is
installed, and left out elsewhere. What its documentation calls beta or experimental (reverse
unpacking, other composers) stays off.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.context import Context, check_restored, empty
from bench.measure import run_measured
from bench.peers import BenchError, first_line, number_in

NAME = "wal-g"
_DELTAS = 6


def find_walg(given: Path | None) -> Path | None:
    """The program as given, or on PATH; None if there is none. Raises BenchError if it is not
    WAL-G for PostgreSQL."""
    found = given or shutil.which(NAME)
    if found is None:
        return None
    program = Path(found)
    if shutil.which(program) is None:
        raise BenchError(f"{program} is no program that runs; --walg takes the path of WAL-G's.")
    said = first_line([program, "--version"])
    if "PostgreSQL" not in said:
        raise BenchError(f"{program} is not WAL-G for PostgreSQL; its --version says: {said}")
    return program


def version_of(program: Path) -> str:
    """What it says of itself, bare."""
    return number_in(first_line([program, "--version"]))


@dataclass(frozen=True)
class WalG:
    """One repository; ``store`` are the variables that name it."""

    context: Context
    program: Path
    store: Mapping[str, str]

    @property
    def env(self) -> dict[str, str]:
        """For the server's own calls, with as many workers as it takes by itself."""
        return {
            **self.context.server.env,
            "PGDATABASE": "postgres",
            "WALG_COMPRESSION_METHOD": "zstd",
            "WALG_DELTA_MAX_STEPS": str(_DELTAS),
            "WALG_VERIFY_PAGE_CHECKSUMS": "true",
            **self.store,
        }

    @property
    def timed_env(self) -> dict[str, str]:
        """The same with as many workers as the others have."""
        workers = str(self.context.processes)
        names = ("UPLOAD_CONCURRENCY", "UPLOAD_DISK_CONCURRENCY", "DOWNLOAD_CONCURRENCY")
        return {**self.env, **{f"WALG_{name}": workers for name in names}}

    def archive(self) -> None:
        """Let the server archive into it from now on."""
        self.context.server.archive_with(f"{self._script('wal-push')} %p")

    def backup(self) -> float:
        """Seconds of a backup: a full one the first time, then what changed since the last."""
        self.context.settle()
        command = [str(self.program), "backup-push", str(self.context.pgdata)]
        usage = run_measured(command, self.timed_env, work=self.context.work)
        return usage.wall_seconds

    def restore(self) -> float:
        """Seconds of a restore of the last backup, which is made ready to recover."""
        target = empty(self.context.work / "restored")
        self.context.settle()
        command = [str(self.program), "backup-fetch", str(target), "LATEST"]
        usage = run_measured(command, self.timed_env, work=self.context.work)
        check_restored(self.context, target)
        # It leaves this to its user.
        target.joinpath("recovery.signal").touch()
        with target.joinpath("postgresql.auto.conf").open("a") as file:
            file.write(f"restore_command = '{self._script('wal-fetch')} %f %p'\n")
        return usage.wall_seconds

    def _script(self, command: str) -> Path:
        """What the server calls, which has not our environment."""
        script = self.context.work / command
        names = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.env.items())
        called = shlex.join([str(self.program), command])
        script.write_text(f'#!/bin/sh\nexport {names}\nexec {called} "$@"\n')
        script.chmod(0o700)
        return script
