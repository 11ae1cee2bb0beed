"""The page ``docs/benchmarks.md``: how it was measured, what was found, what to make of it."""

from __future__ import annotations

import statistics

from bench.results import Results, Row
from bench.targets import judge

GIB = 1 << 30
MIB = 1 << 20
BUSY_CORES = 0.3

METHOD = """\
## How it is measured

`make bench` makes a PostgreSQL cluster with page checksums (pgbench tables for two fifths of it,
jsonb documents for the rest, the same rows at each run), then runs every command below in
interleaved rounds: all of them once, then all of them again. So whatever else the machine does
hits all alike. The tables give the median of the rounds, with the fastest and the slowest.

- Every program gets the same number of processes or threads, the same priority (`--no-nice`), a
  fast checkpoint, page checksums to verify, an empty repository and the same file system. All run
  as one user that is not root.
- Before each timed run the file system is synced and the database is read once: all read from
  the page cache. On storage that is slower than the programs, the differences shrink.
- Wall clock is that of the whole process, from its start until it has ended: start-up, checkpoint,
  waiting for WAL and fsync are in it. CPU is user and system time of the process and its
  children, plus that of the server's connections that it used.
- Each program makes its data durable by its own rules, and we left them alone: all of them fsync
  what they write, in backup and in restore. After each restore the database's files are compared
  byte for byte with the ones that were backed up; where they differ the row is shown as failed.
- pgkeep seals (AES-256-GCM) in every row. pgBackRest encrypts only where the row says so; its
  unencrypted row is the one that the targets are measured against.
- *Raw limit*: bare threads read, check and hash pages, compress and encrypt, and throw the
  result away. *Restore floor*: bare threads decompress, hash, write and fsync the same files.
  *cp* copies the files and syncs each.
- Peak memory is that of the whole process tree, sampled 20 times a second, or of the largest
  process, whichever is more. Processes share pages, which a sum counts more than once: it is an
  upper bound for programs of several processes (pgBackRest), and exact for one (pgkeep). For
  them the largest single process stands in brackets.
- The first byte read of a WAL segment is seen from outside, by an inotify watch on the file,
  counted from just before the process is created. The program itself is not traced.
"""


def render(results: Results) -> str:
    """The whole page as Markdown."""
    parts = [
        "# Benchmarks",
        _intro(results),
        "![Speed of full backup and restore](benchmarks/latest.svg)",
        "## Targets",
        _targets(results),
        "## Full backup",
        _table(results, "backup"),
        "## Restore",
        _table(results, "restore"),
        "## Archiving one WAL segment",
        _wal(results),
        METHOD.rstrip(),
        "## The machine",
        _machine(results),
        "## The commands",
        _commands(results),
        "## What to be careful about",
        _caveats(results),
    ]
    return "\n\n".join(parts) + "\n"


def _intro(results: Results) -> str:
    programs = ", ".join(f"{name} {text}" for name, text in results.versions.items())
    others = results.other_cores
    note = (
        f"\n\n**Others used {others:.1f} of the machine's {results.machine.cores} cores meanwhile: "
        "these figures are only indicative.**"
        if others > BUSY_CORES
        else ""
    )
    return (
        f"Measured {results.when[:10]} with a database of {results.database_bytes / GIB:.1f} GiB, "
        f"{results.rounds} rounds, {results.processes} processes each: {programs}. This page is "
        "written by `make bench`; the figures behind it are in "
        "[latest.json](benchmarks/latest.json)." + note
    )


def _targets(results: Results) -> str:
    lines = ["| target | found | |", "| --- | ---: | --- |"]
    lines += [
        f"| {target.promise} | {target.value} | {target.verdict} |" for target in judge(results)
    ]
    return "\n".join(lines)


def _table(results: Results, group: str) -> str:
    peer = results.row("pgbackrest" if group == "backup" else "pgbackrest-restore")
    lines = [
        "| | wall clock | fastest–slowest | speed | against pgBackRest | CPU | memory | stored |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in (row for row in results.rows if row.group == group):
        lines.append(_line(results, row, peer))
    return "\n".join(lines)


def _line(results: Results, row: Row, peer: Row | None) -> str:
    if not row.runs:
        return f"| {row.title} | {row.failed or 'not measured'} | | | | | | |"
    walls = row.wall_seconds
    ratio = f"{peer.median_seconds / row.median_seconds:.2f} ×" if peer else "–"
    stored = row.stored_bytes
    memory = f"{row.peak_tree_bytes / MIB:.0f} MiB"
    if row.peak_tree_bytes > 1.1 * row.peak_process_bytes:
        memory += f" ({row.peak_process_bytes / MIB:.0f})"
    return (
        f"| {row.title} | {row.median_seconds:.2f} s | {min(walls):.2f}–{max(walls):.2f} s "
        f"| {results.database_bytes / 1e6 / row.median_seconds:.0f} MB/s | {ratio} "
        f"| {row.median_cpu_seconds:.1f} s | {memory} "
        f"| {f'{stored / MIB:.0f} MiB' if stored else '–'} |"
    )


def _wal(results: Results) -> str:
    lines = [
        "| | segments | whole process, median | first byte read, median | fastest–slowest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in results.wal:
        reads = [seconds * 1000 for seconds in row.first_read_seconds]
        lines.append(
            f"| {row.title} | {len(row.total_seconds)} | {row.median_total * 1000:.0f} ms "
            f"| {statistics.median(reads):.0f} ms | {min(reads):.0f}–{max(reads):.0f} ms |"
        )
    return "\n".join(lines)


def _machine(results: Results) -> str:
    machine = results.machine
    return (
        f"{machine.cores} cores of {machine.cpu}, {machine.memory_bytes / GIB:.0f} GiB of memory, "
        f"{machine.file_system}, {machine.system}, Linux {machine.kernel}, "
        f"Python {machine.python}."
    )


def _commands(results: Results) -> str:
    rows = [f"{row.title:<42} {row.command}" for row in results.rows if row.group == "backup"]
    rows += [f"{row.title:<42} {row.command}" for row in results.rows if row.group == "restore"]
    rows += [f"{row.title:<42} {row.command}" for row in results.wal]
    return "```\n" + "\n".join(rows) + "\n```"


def _caveats(results: Results) -> str:
    spread = max(
        (max(row.wall_seconds) / min(row.wall_seconds) for row in results.rows if row.runs),
        default=1.0,
    )
    stored = results.row("pgbackrest")
    ratio = (
        f" It compresses {results.database_bytes / stored.stored_bytes:.1f} to 1 in pgBackRest's "
        "hands."
        if stored and stored.stored_bytes
        else ""
    )
    return "\n".join(
        [
            "- One machine, one database, everything local. A network or an object store between "
            "the program and its repository changes the picture.",
            f"- The database is synthetic.{ratio}",
            "- While the commands ran, everything else on the machine (writing back "
            f"to disk included) used {results.other_cores:.2f} of {results.machine.cores} cores on "
            "average.",
            f"- The least steady row's slowest round took {spread:.2f} × its fastest.",
            "- Peers run with the settings shown, which are the fast ones of their documentation; "
            "who knows better ones is welcome to say so.",
        ]
    )
