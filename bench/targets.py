"""The speed that the project promises itself, each with what this run found."""

from __future__ import annotations

from dataclasses import dataclass

from bench.results import Results

MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """One promise. ``reached`` is None where the run could not tell."""

    promise: str
    value: str
    reached: bool | None

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "**not reached**", None: "not measured"}[self.reached]


def judge(results: Results) -> list[Target]:
    """Every target of the project, in the order of its plan."""
    return [
        _faster(results, "pgkeep", "pgbackrest", 1.25, "Full backup at an equal zstd level"),
        _copy_phase(results),
        _size(results),
        _faster(results, "pgkeep-default", "pgbackrest", 1.7, "Full backup, each at its default"),
        _restore(results),
        _cold_start(results),
        _memory(results, "pgkeep", "backup"),
        _memory(results, "pgkeep-restore", "restore"),
    ]


def _faster(results: Results, own: str, peer: str, factor: float, what: str) -> Target:
    promise = f"{what}: at least {factor} × pgBackRest's speed"
    ours, theirs = results.row(own), results.row(peer)
    if ours is None or theirs is None:
        return Target(promise, "–", None)
    ratio = theirs.median_seconds / ours.median_seconds
    return Target(promise, f"{ratio:.2f} ×", ratio >= factor)


def _copy_phase(results: Results) -> Target:
    promise = "Copy phase of a full backup: at least 80 % of the raw limit at the same level"
    ours, raw = results.row("pgkeep"), results.row("raw-3")
    copy = ours.median_fact("copy_seconds") if ours else None
    limit = raw.median_fact("seconds") if raw else None
    if copy is None or limit is None:
        return Target(promise, "–", None)
    return Target(promise, f"{limit / copy:.0%}", limit / copy >= 0.8)


def _size(results: Results) -> Target:
    promise = "Repository at an equal level: at most 1.05 × pgBackRest's"
    ours, theirs = results.row("pgkeep"), results.row("pgbackrest")
    if ours is None or theirs is None or not ours.stored_bytes or not theirs.stored_bytes:
        return Target(promise, "–", None)
    ratio = ours.stored_bytes / theirs.stored_bytes
    return Target(promise, f"{ratio:.3f} ×", ratio <= 1.05)


def _restore(results: Results) -> Target:
    promise = "Restore: at least 1.2 × pgBackRest's speed, or 85 % of the restore floor"
    ours = results.row("pgkeep-restore")
    theirs, raw = results.row("pgbackrest-restore"), results.row("raw-restore")
    floor = raw.median_fact("seconds") if raw else None
    if ours is None or theirs is None or floor is None:
        return Target(promise, "–", None)
    ratio, share = theirs.median_seconds / ours.median_seconds, floor / ours.median_seconds
    return Target(promise, f"{ratio:.2f} ×, {share:.0%}", ratio >= 1.2 or share >= 0.85)


def _cold_start(results: Results) -> Target:
    promise = "`pgkeep wal-push`, from start to the first byte read: at most 100 ms"
    ours = results.wal_row("pgkeep")
    if ours is None:
        return Target(promise, "–", None)
    return Target(promise, f"{ours.median_first_read * 1000:.0f} ms", ours.median_first_read <= 0.1)


def _memory(results: Results, key: str, what: str) -> Target:
    promise = f"Peak memory of {what} with {results.processes} workers: at most 300 MiB"
    ours = results.row(key)
    if ours is None:
        return Target(promise, "–", None)
    peak = ours.peak_tree_bytes
    return Target(promise, f"{peak / MIB:.0f} MiB", peak <= 300 * MIB)
