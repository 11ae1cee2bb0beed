"""pg_basebackup, PostgreSQL's own: one stream from the server, plain or compressed."""

from __future__ import annotations

import shutil

from bench.context import Case, Context, Outcome, empty, size_of
from bench.measure import run_measured


def basebackup_cases(context: Context) -> list[Case]:
    """Plain copy, and a tar compressed by the client with as many zstd workers as others have."""
    compress = f"client-zstd:level=3,workers={context.processes}"
    plain = ["--checkpoint=fast", "--format=plain"]
    packed = ["--checkpoint=fast", "--format=tar", f"--compress={compress}"]
    return [
        _case(context, "basebackup", "pg_basebackup, plain copy", plain),
        _case(context, "basebackup-zstd", "pg_basebackup, client zstd level 3", packed),
    ]


def _case(context: Context, key: str, title: str, options: list[str]) -> Case:
    def run() -> Outcome:
        target = empty(context.work / "basebackup")
        context.settle()
        usage = run_measured(
            [context.peers.program("pg_basebackup"), "-D", str(target), *options],
            context.server.env,
            work=context.work,
            server_cpu=context.server.children_cpu_seconds,
        )
        stored = size_of(target)
        shutil.rmtree(target)
        return Outcome(usage, stored)

    return Case(key, title, "backup", f"pg_basebackup -D DIR {' '.join(options)}", run)
