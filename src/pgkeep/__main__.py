"""The program's entry: ``pgkeep …`` and ``python -m pgkeep …``.

PostgreSQL starts ``wal-push`` for every segment and waits for it, so these two commands go straight
to their module, past argparse and everything else. Their help takes the ordinary way.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence

_WITH_VALUE = frozenset({"--config", "--repo", "--cluster", "--pgdata", "--progress"})
_DIRECT = frozenset({"wal-push", "wal-fetch"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # At the end of a process Python looks for cycles among all that was imported: 0.1 s for memory
    # that the kernel takes back anyway.
    atexit.register(gc.freeze)
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = command_position(given)
    if at is not None and given[at] in _DIRECT and not {"-h", "--help"} & set(given):
        from pgkeep.cli.wal import main as run_wal

        code = run_wal([given[at], *given[:at], *given[at + 1 :]])
        if arguments is None and given[at] == "wal-fetch" and "--prefetch" not in given:
            # Recovery waits. What is left to do is taking the interpreter apart, and 3 ms. What it
            # had to say was written when it was said; a pipe that is gone must not change the code.
            os._exit(code)
        return code
    # numpy's linear algebra, of which nothing is used here, would start a thread for each core,
    # which spins for a while and takes 32 MiB.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pgkeep.cli.main import main as run_cli

    return run_cli(given)


def command_position(arguments: Sequence[str]) -> int | None:
    """Where the command stands: the first word that is no option and no option's value."""
    skip = False
    for position, word in enumerate(arguments):
        if skip:
            skip = False
        elif not word.startswith("-"):
            return position
        else:
            skip = word in _WITH_VALUE
    return None


if __name__ == "__main__":
    sys.exit(main())
