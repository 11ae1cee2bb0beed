"""What a run of the benchmark found, as values: read by the targets, the report and the plot."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import Machine


@dataclass(frozen=True)
class Run:
    """One round of one row. ``other_cpu_seconds`` is what everybody else used meanwhile."""

    wall_seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    other_cpu_seconds: float
    peak_process_bytes: int
    peak_tree_bytes: int
    stored_bytes: int | None
    facts: dict[str, Any]


@dataclass
class Row:
    """One case with all its rounds, or the reason why it has none."""

    key: str
    title: str
    group: str
    command: str
    runs: list[Run] = field(default_factory=list)
    failed: str | None = None

    @property
    def wall_seconds(self) -> list[float]:
        return [run.wall_seconds for run in self.runs]

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.wall_seconds)

    @property
    def median_cpu_seconds(self) -> float:
        return statistics.median(run.cpu_seconds + run.server_cpu_seconds for run in self.runs)

    @property
    def peak_process_bytes(self) -> int:
        return max(run.peak_process_bytes for run in self.runs)

    @property
    def peak_tree_bytes(self) -> int:
        return max(run.peak_tree_bytes for run in self.runs)

    @property
    def stored_bytes(self) -> int | None:
        sizes = [run.stored_bytes for run in self.runs if run.stored_bytes is not None]
        return round(statistics.median(sizes)) if sizes else None

    def median_fact(self, name: str) -> float | None:
        """The median of a number that the program itself reported, wherever it stands."""
        found = [
            float(value)
            for run in self.runs
            for key, value in run.facts.items()
            if key.rpartition(".")[2] == name and isinstance(value, (int, float))
        ]
        return statistics.median(found) if found else None


@dataclass
class WalRow:
    """Archiving one segment at a time; seconds of each."""

    key: str
    title: str
    command: str
    total_seconds: list[float]
    first_read_seconds: list[float]

    @property
    def median_total(self) -> float:
        return statistics.median(self.total_seconds)

    @property
    def median_first_read(self) -> float:
        return statistics.median(self.first_read_seconds)


@dataclass
class Results:
    """A whole run. ``database_bytes`` is what a base backup copies."""

    when: str
    machine: Machine
    versions: dict[str, str]
    rounds: int
    processes: int
    database_bytes: int
    rows: list[Row]
    wal: list[WalRow]

    @property
    def other_cores(self) -> float:
        """How many cores everybody else kept busy on average while the rows were measured."""
        runs = [run for row in self.rows for run in row.runs]
        wall_seconds = sum(run.wall_seconds for run in runs)
        return sum(run.other_cpu_seconds for run in runs) / wall_seconds if runs else 0.0

    def row(self, key: str) -> Row | None:
        """The row of this key if it was measured."""
        return next((row for row in self.rows if row.key == key and row.runs), None)

    def wal_row(self, key: str) -> WalRow | None:
        return next((row for row in self.wal if row.key == key), None)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load_results(path: Path) -> Results:
    """The inverse of :meth:`Results.save`."""
    tree = json.loads(path.read_text())
    tree["machine"] = Machine(**tree["machine"])
    tree["wal"] = [WalRow(**row) for row in tree["wal"]]
    tree["rows"] = [
        Row(**{**row, "runs": [Run(**run) for run in row["runs"]]}) for row in tree["rows"]
    ]
    return Results(**tree)
