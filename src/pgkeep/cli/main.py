"""Dispatch: find the command, import its module only, run it, and say how it ended.

Signals become exceptions, so that every ``with`` and ``finally`` below gets its turn, and whatever
waits for a store in another thread stops waiting: Ctrl-C ends with 130, SIGTERM with 143, and a
reader that went away (``pgkeep list | head``) with 141, quietly.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pgkeep.cli import failure
from pgkeep.cli.context import Context
from pgkeep.cli.output import Output, close_quietly
from pgkeep.cli.table import Command
from pgkeep.errors import Interrupted, PgkeepError
from pgkeep.storage.stop import Stop

EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 130, 141, 143

# What a person needs to know of what was begun.
_AFTER_A_STOP = {
    "backup": "No backup was made, and nothing unfinished is listed; run the command again.",
    "restore": "If files were written already, no server starts them: run the command again with "
    "--delta, or remove the directory first.",
    "demo": "Its servers are stopped, and its folder is removed.",
    "dump create": "No dump was made, and nothing unfinished is listed; run the command again.",
    "dump restore": "Databases that were begun are restored in part: drop them, or run the command "
    "again with --clean.",
    "verify": "What was read is recorded; the same command goes on from there.",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: handled like Ctrl-C everywhere, and told apart at the very end."""


def main(arguments: Sequence[str], *, environ: Mapping[str, str] | None = None) -> int:
    """Run ``pgkeep`` with these arguments and return its exit code; prints, never raises."""
    output = Output(
        as_json="--json" in arguments, environ=os.environ if environ is None else environ
    )
    verbose = bool({"-v", "--verbose"} & set(arguments))
    stop = Stop()
    _end_on_signals(stop)
    try:
        return _run(
            arguments, output, environ=os.environ if environ is None else environ, stop=stop
        )
    except BrokenPipeError:
        close_quietly(output.stdout)
        return EXIT_PIPE
    except KeyboardInterrupt as error:
        return _interrupted(error, output, arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        return failure.report(error, output, verbose=verbose)


def _run(
    arguments: Sequence[str], output: Output, *, environ: Mapping[str, str], stop: Stop
) -> int:
    from pgkeep.cli import parsing

    command, rest = parsing.split_command(arguments)
    if command is None:
        return parsing.top_level(rest, output)
    module = parsing.load_command(command)
    args = parsing.command_parser(command, module).parse_args(rest)
    context = Context(
        args,
        output,
        environ=environ,
        program=own_program(sys.argv[0]),
        owner_uid=os.geteuid(),
        stop=stop,
    )
    if command.as_owner and os.geteuid() == 0:
        _become_owner(context, command)
    code: int = module.run(context, args)
    return code


def _become_owner(context: Context, command: Command) -> None:
    from pgkeep.cli.privileges import become_owner

    become_owner(context, quietly=command.name in ("list", "show"))


def own_program(argv0: str) -> tuple[str, ...]:
    """How this program can be called again, by absolute paths and without PATH."""
    found = argv0 if "/" in argv0 else shutil.which(argv0)
    path = Path(found or argv0).absolute()
    if found and path.suffix != ".py" and os.access(path, os.X_OK) and path.is_file():
        return (str(path),)
    return (*_package_on_path(), sys.executable, "-m", "pgkeep")


def _package_on_path() -> tuple[str, ...]:
    """What makes a package importable that is not installed: a checkout on PYTHONPATH."""
    place = Path(__file__).resolve().parents[2]
    if place.name in ("site-packages", "dist-packages"):
        return ()
    return ("/usr/bin/env", f"PYTHONPATH={place}")


def _interrupted(error: KeyboardInterrupt, output: Output, arguments: Sequence[str]) -> int:
    terminated = isinstance(error, Terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known: PgkeepError = Interrupted(
        "Stopped by SIGTERM." if terminated else "Stopped.",
        remedy=_AFTER_A_STOP.get(_command_of(arguments), "Run the command again when you like."),
    )
    known.exit_code = EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    return failure.report(known, output, verbose=False)


def _command_of(arguments: Sequence[str]) -> str:
    from pgkeep.cli import parsing

    try:
        command, _ = parsing.split_command(arguments)
    except PgkeepError:
        return ""
    return "" if command is None else command.name


def _end_on_signals(stop: Stop) -> None:
    def handler(number: int, _frame: FrameType | None) -> NoReturn:
        stop.set()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    signal.signal(signal.SIGTERM, handler)
    # A shell has it ignored in what it starts in the background, and so it stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
