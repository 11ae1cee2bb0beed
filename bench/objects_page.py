"""The page ``docs/benchmarks-objects.md``, and the figures behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.objects import GIB

_RULES = (
    "pgkeep at its defaults, sealed; pgBackRest with bundles and block incremental, zst 3, not "
    "encrypted; two workers each for backup and restore. The incremental backup follows an update "
    "of 1 % of rows at random. WAL: the server's archiver works off a backlog, and a restored "
    "server recovers from it; seconds for each segment. A full backup counts the requests of "
    "`init`, too."
)
_WALG_RULES = (
    "WAL-G with zstd at its own default level, about zstd's 3 (before release 3.0.9 there is no "
    "other), page checksums verified, not encrypted; two workers for backup and restore, its "
    "defaults for WAL. Its incremental backup is a delta (`WALG_DELTA_MAX_STEPS`), and what its "
    "documentation calls beta stays off."
)
_NO_WALG = "WAL-G is not among them: no `wal-g` was on the machine."


def report(
    found: list[dict[str, Any]], *, machine: str, versions: dict[str, str], size: int
) -> str:
    """The page, as Markdown."""
    has_walg = any(one["walg_seconds"] for one in found)
    programs = ", ".join(f"{name} {number}" for name, number in versions.items())
    return "\n".join(
        [
            "# Benchmarks on an object store",
            "",
            f"A database of {size / GIB:.1f} GiB and a MinIO server beside it, over TLS through "
            f"a proxy that adds the latency to each answer: {programs}. {machine} "
            "This page is written by `make bench ARGS=--objects`.",
            "",
            _RULES,
            "",
            _WALG_RULES if has_walg else _NO_WALG,
            "",
            "The columns of times (×) are pgkeep's seconds by the other's: below 1, pgkeep took "
            "less.",
            "",
            *_table(found, has_walg=has_walg),
            "",
        ]
    )


def save(found: list[dict[str, Any]], page: str, *, docs: Path) -> None:
    """Write the page and the figures behind it."""
    (docs / "benchmarks" / "objects.json").write_text(json.dumps(found, indent=1) + "\n")
    (docs / "benchmarks-objects.md").write_text(page)


def _table(found: list[dict[str, Any]], *, has_walg: bool) -> list[str]:
    peers = {"pgBackRest": "pgbackrest_seconds"}
    if has_walg:
        peers["WAL-G"] = "walg_seconds"
    titles = [title for peer in peers for title in (peer, f"by {peer}'s")]
    heads = ["command", "latency", "pgkeep", *titles, "requests of pgkeep by GiB"]
    rows = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for one in found:
        own = one["pgkeep_seconds"]
        cells = [cell for key in peers.values() for cell in _beside(own, one[key])]
        requests = f"{one['requests']:.0f}" if one["requests"] else "–"
        latency = f"{one['delay_ms']} ms"
        rows.append(_line([one["command"], latency, _shown(own), *cells, requests]))
    return rows


def _beside(own: float, seconds: float | None) -> tuple[str, str]:
    return (_shown(seconds), f"{own / seconds:.2f} ×") if seconds else ("–", "–")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
