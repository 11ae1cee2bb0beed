"""The limits that the machine sets: bare threads doing the same work, and a plain copy."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from bench.context import Case, Context, Outcome, check_restored, empty
from bench.measure import run_measured
from bench.server import run_tool

CHECKOUT = Path(__file__).resolve().parent.parent
LEVEL = 3


def raw_env(work: Path) -> dict[str, str]:
    """This checkout on the path, and compiled modules where we may write them.

    Its ``src`` only where pgkeep is not installed: there is no C module in it, and a limit that is
    measured without would be none.
    """
    paths = [CHECKOUT] if find_spec("pgkeep") else [CHECKOUT, CHECKOUT / "src"]
    return {
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONPYCACHEPREFIX": str(work / "pycache"),
    }


def floor_cases(context: Context) -> list[Case]:
    """The raw limit of a backup at two levels, the restore floor, and ``cp``."""
    cases = [_raw_backup(context, level) for level in (LEVEL, 1)]
    return [*cases, _copy(context), _raw_restore(context)]


def _raw(context: Context, *arguments: str) -> list[str]:
    threads = f"--threads={context.processes}"
    return [sys.executable, "-m", "bench.raw_limit", *arguments, threads]


def _raw_backup(context: Context, level: int) -> Case:
    def run() -> Outcome:
        context.settle()
        command = _raw(context, "backup", str(context.pgdata), f"--level={level}")
        usage = run_measured(command, raw_env(context.work), work=context.work)
        facts = json.loads(usage.output)
        return Outcome(usage, facts["stored_bytes"], facts)

    return Case(
        f"raw-{level}",
        f"raw limit, zstd level {level}, nothing written",
        "backup",
        f"python -m bench.raw_limit backup PGDATA --level={level}",
        run,
    )


def _raw_restore(context: Context) -> Case:
    frames = context.work / "raw.frames"

    def run() -> Outcome:
        if not frames.exists():
            pack = _raw(context, "pack", str(context.pgdata), str(frames), f"--level={LEVEL}")
            run_tool(pack, raw_env(context.work))
        target = empty(context.work / "restored")
        context.settle()
        command = _raw(context, "restore", str(frames), str(target))
        usage = run_measured(command, raw_env(context.work), work=context.work)
        check_restored(context, target)
        return Outcome(usage, None, json.loads(usage.output))

    command = "python -m bench.raw_limit restore FRAMES DIR"
    return Case("raw-restore", "restore floor", "restore", command, run)


def _copy(context: Context) -> Case:
    def run() -> Outcome:
        target = context.work / "copied"
        shutil.rmtree(target, ignore_errors=True)
        context.settle()
        source = str(context.pgdata / "base")
        script = 'cp -r "$1" "$2" && find "$2" -type f -exec sync {} +'
        command = ["sh", "-c", script, "sh", source, str(target)]
        usage = run_measured(command, {}, work=context.work)
        shutil.rmtree(target)
        return Outcome(usage)

    return Case(
        "copy", "cp, with fsync of each file", "restore", "cp -r PGDATA/base DIR; sync", run
    )
