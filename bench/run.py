"""The run itself: prepare, measure in rounds, write the page.

PostgreSQL refuses to run as root. So as root this process makes the work directory and the
programs, then starts itself again as ``nobody`` for everything that is measured, and at the
end writes the results into the checkout, where nobody may not write.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.basebackup import basebackup_cases
from bench.context import Case, Context
from bench.database import GIB, load
from bench.floors import CHECKOUT, floor_cases
from bench.incremental import PARTS, Incrementals
from bench.incremental import report as report_incremental
from bench.incremental import save as save_incremental
from bench.machine import describe
from bench.objects import ObjectBench
from bench.objects_page import report as report_objects
from bench.objects_page import save as save_objects
from bench.peers import BenchError, Peers, prepare_peers
from bench.pgbackrest import pgbackrest_cases
from bench.pgkeep import Program, find_program, pgkeep_cases
from bench.plot import draw
from bench.report import render
from bench.results import Results, Row, Run, WalRow, load_results
from bench.s3_server import PROGRAMS
from bench.server import running
from bench.targets import judge
from bench.wal import measure_wal
from bench.walg import NAME as WALG
from bench.walg import find_walg, version_of

UNPRIVILEGED = "nobody"
FREE_FACTOR = 4.5


def parser() -> argparse.ArgumentParser:
    """The options; ``--help`` shows them."""
    found = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    found.add_argument("--size-gib", type=float, default=8.0, help="size of the database")
    found.add_argument("--rounds", type=int, default=3, help="times every command is run")
    found.add_argument("--processes", type=int, default=2, help="processes or threads of each")
    found.add_argument("--segments", type=int, default=50, help="WAL segments to archive")
    found.add_argument("--work", type=Path, help="work directory, on the disk to be measured")
    found.add_argument("--peers", type=Path, help="Debian tree of the peers, made if absent")
    found.add_argument("--pgkeep", help="the pgkeep command, if not this checkout's")
    found.add_argument("--walg", type=Path, help="WAL-G's program, if not on PATH (--objects)")
    found.add_argument(
        "--incremental", action="store_true", help="incremental backups, and nothing else"
    )
    found.add_argument("--objects", action="store_true", help="on an S3 server, and nothing else")
    found.add_argument(
        "--only",
        help="only rows whose key holds one of these words, by comma; or with --incremental, "
        f"only these parts of {', '.join(PARTS)}",
    )
    found.add_argument("--keep", action="store_true", help="keep the database for the next run")
    found.add_argument("--dry-docs", action="store_true", help="leave the documentation alone")
    found.add_argument("--as-is", action="store_true", help=argparse.SUPPRESS)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every row was measured."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    signal.signal(signal.SIGTERM, _stop)
    work = (options.work or Path(tempfile.gettempdir()) / "pgkeep-bench").absolute()
    try:
        if not options.as_is:
            return _prepare_and_run(options, work, given)
        return _measure(options, work)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _stop(number: int, _frame: object) -> None:
    """SIGTERM leaves through every ``finally``, as Ctrl-C does."""
    raise KeyboardInterrupt


def _prepare_and_run(options: argparse.Namespace, work: Path, given: list[str]) -> int:
    work.mkdir(parents=True, exist_ok=True)
    _check_space(work, options.size_gib)
    (work / "home").mkdir(exist_ok=True)
    tree = options.peers.absolute() if options.peers else None
    say("programs of others", prepare_peers(work, tree=tree).source)
    if options.objects:
        from tools.object_servers import provide  # of the checkout, which the other user has not

        for name in PROGRAMS:
            shutil.copy(provide(name), work / "bin" / name)
        _bring_walg(options.walg, work)
    account = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None
    if account is not None:
        work.chmod(0o755)
        for path in (work, work / "home"):
            os.chown(path, account.pw_uid, account.pw_gid)
    returncode = _run_child(
        [sys.executable, "-m", "bench", *given, f"--work={work}", "--as-is"],
        code=_copy_code(work),
        account=account,
    )
    if options.incremental and returncode == 0:
        _publish_incremental(work / "results.json", docs=not options.dry_docs)
    elif options.objects and returncode == 0:
        _publish_objects(work / "results.json", docs=not options.dry_docs)
    elif (work / "results.json").exists():
        _publish(load_results(work / "results.json"), docs=not options.dry_docs)
    return returncode


def _bring_walg(given: Path | None, work: Path) -> None:
    """WAL-G's program where the other user can run it, or none there."""
    copy = work / "bin" / WALG
    program = find_walg(given)
    copy.unlink(missing_ok=True)
    if program is None:
        say("WAL-G", "not on PATH and no --walg given; its columns are left out")
        return
    shutil.copy(program, copy)
    say("WAL-G", version_of(copy))


def _copy_code(work: Path) -> Path:
    """The benchmark's own modules where the other user can read them, whatever the checkout."""
    code = work / "code"
    shutil.rmtree(code, ignore_errors=True)
    shutil.copytree(
        CHECKOUT / "bench", code / "bench", ignore=shutil.ignore_patterns("__pycache__", "results")
    )
    (code / "src").symlink_to(CHECKOUT / "src")
    return code


def _run_child(command: list[str], *, code: Path, account: pwd.struct_passwd | None) -> int:
    child = subprocess.Popen(
        command,
        cwd=code,
        env={**os.environ, "HOME": str(code.parent / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        return child.wait()
    finally:
        # It stops its server before it ends, so it is asked and waited for, never killed.
        if child.poll() is None:
            child.terminate()
            child.wait()


def _check_space(work: Path, size_gib: float) -> None:
    needed, free = size_gib * FREE_FACTOR * GIB, shutil.disk_usage(work).free
    if free < needed:
        raise BenchError(
            f"A database of {size_gib} GiB needs about {needed / GIB:.0f} GiB free, and there are "
            f"{free / GIB:.0f} GiB; choose --work on another disk, or a smaller --size-gib."
        )


def _measure(options: argparse.Namespace, work: Path) -> int:
    (work / "results.json").unlink(missing_ok=True)
    peers = _peers_again(options, work)
    program = find_program(work, given=options.pgkeep)
    say("pgkeep", program.version if program else "not runnable here; its rows are left out")
    pgdata = load(peers, work, size_bytes=round(options.size_gib * GIB))
    say("database", "ready")
    try:
        with running(peers, pgdata, work, {"archive_command": "true"}) as server:
            context = Context(peers, server, work, options.processes)
            if options.incremental:
                return _incremental(context, program, options)
            if options.objects:
                return _objects(context, program, options)
            rows = _rounds(_cases(context, program, options.only), options.rounds)
            wal = _wal(context, program, options)
        results = _results(options, work, peers, program, rows, wal)
        results.save(work / "results.json")
    finally:
        _clean(work, keep=options.keep)
    whole = not any(row.failed for row in rows) and (wal or not options.segments)
    return 0 if whole else 1


def _incremental(context: Context, program: Program | None, options: argparse.Namespace) -> int:
    if program is None:
        raise BenchError("pgkeep does not run here.")
    parts = options.only.split(",") if options.only else PARTS
    found = Incrementals(context, program).run(rounds=options.rounds, only=parts)
    facts = {"found": found, "rounds": options.rounds, **_facts(context, program, options)}
    (context.work / "results.json").write_text(json.dumps(facts))
    return 0


def _objects(context: Context, program: Program | None, options: argparse.Namespace) -> int:
    if program is None:
        raise BenchError("pgkeep does not run here.")
    walg = context.work / "bin" / WALG
    program_of_walg = walg if walg.exists() else None
    bench = ObjectBench(context, program, segments=options.segments, walg=program_of_walg)
    found = bench.run()
    facts = {"found": found, **_facts(context, program, options)}
    if program_of_walg:
        facts["versions"] |= {"WAL-G": version_of(walg)}
    (context.work / "results.json").write_text(json.dumps(facts))
    return 0


def _facts(context: Context, program: Program, options: argparse.Namespace) -> dict[str, Any]:
    machine = describe(context.work)
    return {
        "machine": f"{machine.cores} cores of {machine.cpu}, {machine.file_system}, "
        f"{machine.system}.",
        "versions": {"pgkeep": program.version, **context.peers.versions()},
        "size": round(options.size_gib * GIB),
    }


def _publish_objects(results: Path, *, docs: bool) -> None:
    facts = json.loads(results.read_text())
    found = facts.pop("found")
    page = report_objects(found, **facts)
    print(page)
    if docs:
        save_objects(found, page, docs=CHECKOUT / "docs")


def _publish_incremental(results: Path, *, docs: bool) -> None:
    facts = json.loads(results.read_text())
    found = facts.pop("found")
    if set(found) != set(PARTS):
        print(json.dumps(found, indent=1))
        return
    page = report_incremental(found, **facts)
    print(page)
    if docs:
        save_incremental(found, page, docs=CHECKOUT / "docs")


def _peers_again(options: argparse.Namespace, work: Path) -> Peers:
    scripts = next(iter(work.glob("bin/usr/lib/postgresql/*/bin")), None)
    if scripts is not None and scripts.joinpath("pgbackrest").exists():
        return Peers(scripts, scripts / "pgbackrest", "Debian sid packages")
    return prepare_peers(work, tree=options.peers)


def _cases(context: Context, program: Program | None, only: str | None) -> list[Case]:
    own = pgkeep_cases(context, program) if program else []
    cases = [*own, *pgbackrest_cases(context), *basebackup_cases(context), *floor_cases(context)]
    if only:
        words = only.split(",")
        cases = [case for case in cases if any(word in case.key for word in words)]
    return cases


def _in_turn(cases: list[Case], number: int) -> list[Case]:
    """The order of a round: its backups, then its restores, since they restore what those made.

    Each round begins with another one, so that no row always pays for what went before it.
    """
    found = []
    for of_group in (True, False):
        group = [case for case in cases if (case.group == "backup") is of_group]
        start = number * len(group) // 3 % max(len(group), 1)
        found += group[start:] + group[:start]
    return found


def _rounds(cases: list[Case], rounds: int) -> list[Row]:
    rows = {case.key: Row(case.key, case.title, case.group, case.command) for case in cases}
    for number in range(rounds):
        for case in _in_turn(cases, number):
            row = rows[case.key]
            if row.failed is None:
                _run_case(case, row, number + 1)
    return list(rows.values())


def _run_case(case: Case, row: Row, number: int) -> None:
    try:
        run = _timed(case)
    except BenchError as error:
        row.failed = "failed"
        say(f"round {number}  {case.key}", f"failed: {error}")
        return
    row.runs.append(run)
    rest = f"{run.cpu_seconds:.1f} s CPU, {run.peak_tree_bytes >> 20} MiB"
    if run.stored_bytes:
        rest += f", stored {run.stored_bytes >> 20} MiB"
    say(f"round {number}  {case.key}", f"{run.wall_seconds:.2f} s, {rest}")


def _timed(case: Case) -> Run:
    outcome = case.run()
    usage = outcome.usage
    return Run(
        wall_seconds=usage.wall_seconds,
        cpu_seconds=usage.cpu_seconds,
        server_cpu_seconds=usage.server_cpu_seconds,
        other_cpu_seconds=usage.other_cpu_seconds,
        peak_process_bytes=usage.peak_process_bytes,
        peak_tree_bytes=usage.peak_tree_bytes,
        stored_bytes=outcome.stored_bytes,
        facts=outcome.facts,
    )


def _wal(context: Context, program: Program | None, options: argparse.Namespace) -> list[WalRow]:
    if not options.segments:
        return []
    try:
        rows = measure_wal(context, program, count=options.segments)
    except BenchError:
        traceback.print_exc()
        return []
    for row in rows:
        first = f"first byte read after {row.median_first_read * 1000:.0f} ms"
        say(row.title, f"{row.median_total * 1000:.0f} ms a segment, {first}")
    return rows


def _results(
    options: argparse.Namespace,
    work: Path,
    peers: Peers,
    program: Program | None,
    rows: list[Row],
    wal: list[WalRow],
) -> Results:
    raw = [run.facts["raw_bytes"] for row in rows for run in row.runs if "raw_bytes" in run.facts]
    own = {"pgkeep": program.version} if program else {}
    return Results(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe(work),
        versions={**own, **peers.versions()},
        rounds=options.rounds,
        processes=options.processes,
        database_bytes=max(raw, default=round(options.size_gib * GIB)),
        rows=rows,
        wal=wal,
    )


def _publish(results: Results, *, docs: bool) -> None:
    day = results.when[:10]
    results.save(CHECKOUT / "bench" / "results" / f"{day}.json")
    page = render(results)
    (CHECKOUT / "bench" / "results" / f"{day}.md").write_text(page)
    if docs:
        results.save(CHECKOUT / "docs" / "benchmarks" / "latest.json")
        (CHECKOUT / "docs" / "benchmarks" / "latest.svg").write_text(draw(results))
        (CHECKOUT / "docs" / "benchmarks.md").write_text(page)
    for target in judge(results):
        say(target.verdict.strip("*"), f"{target.promise}: {target.value}")


def _clean(work: Path, *, keep: bool) -> None:
    kept = {"peers", "bin", "home", "code", "results.json", "server.log"}
    if keep:
        kept |= {"pgdata", "pgdata.recipe", "wal", "pycache"}
    for path in work.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def say(what: str, text: str) -> None:
    """One line of progress."""
    print(f"{what:<34} {text}", flush=True)
