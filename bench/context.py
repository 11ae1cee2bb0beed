"""What every case of a run needs to know, and what it gives back."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.database import DATABASE
from bench.measure import Usage
from bench.peers import BenchError, Peers
from bench.server import Server, run_tool


@dataclass(frozen=True)
class Context:
    """One run of the benchmark, as the cases see it."""

    peers: Peers
    server: Server
    work: Path
    processes: int

    @property
    def pgdata(self) -> Path:
        return self.server.pgdata

    def settle(self) -> None:
        """Before each timed run: nothing left to be written back, the database in page cache."""
        run_tool(["sync"], {})
        self.server.sql("CHECKPOINT")
        buffer = bytearray(1 << 20)
        for folder, _, files in os.walk(self.pgdata / "base"):
            for name in files:
                with (Path(folder) / name).open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass


@dataclass(frozen=True)
class Outcome:
    """One run of one case. ``facts`` are what the program itself reported."""

    usage: Usage
    stored_bytes: int | None = None
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One command to be measured. ``command`` is how a reader would type it."""

    key: str
    title: str
    group: str
    command: str
    run: Callable[[], Outcome]


def empty(directory: Path) -> Path:
    """The directory, existing and empty, for its owner only."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)
    return directory


def size_of(directory: Path) -> int:
    """Bytes of all files below, by their length."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def check_restored(context: Context, target: Path) -> None:
    """The restored database is byte for byte the one that was backed up. Raises BenchError.

    Only the benchmark's own database is compared: nothing connects to it during a run, so its
    files do not change, while catalogs elsewhere may get hint bits.
    """
    oid = context.server.sql(f"SELECT oid FROM pg_database WHERE datname = '{DATABASE}'")
    source = context.pgdata / "base" / oid
    for path in sorted(source.iterdir()):
        twin = target / "base" / oid / path.name
        if path.name == "pg_internal.init":
            continue
        if not twin.exists() or not filecmp.cmp(path, twin, shallow=False):
            raise BenchError(f"The restored {path.name} differs from the one backed up.")
