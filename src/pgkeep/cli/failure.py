"""How an error reaches a person: what happened, why, what to do, then code and page.

Never a traceback: an exception that is not ours is a bug of pgkeep, and is said to be one. With
``-v`` the traceback follows, for the report.
"""

from __future__ import annotations

import errno
import textwrap
import traceback

from pgkeep.cli.output import Output, as_json
from pgkeep.errors import LocalIOError, PgkeepError, StoreFull

WIDTH = 100


def report(error: BaseException, output: Output, *, verbose: bool) -> int:
    """Show an error and return the exit code."""
    known = as_known(error)
    if output.json:
        print(as_json(known.as_dict()), file=output.stdout, flush=True)
    else:
        print(error_text(known, wrap=output.stderr.isatty()), file=output.stderr, flush=True)
    if verbose and not isinstance(error, PgkeepError):
        traceback.print_exception(error, file=output.stderr)
    return known.exit_code


def error_text(error: PgkeepError, *, wrap: bool = False) -> str:
    """``what``, ``why`` and ``remedy`` on lines of their own, the exit code at the end."""
    last = f"[exit {error.exit_code} · docs: {error.docs}]"
    lines = [part for part in (error.what, error.why, error.remedy) if part]
    lines[-1] = f"{lines[-1]}        {last}"
    if wrap:
        lines = [
            "\n".join(textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False))
            for line in lines
        ]
    return "\n".join(lines)


def as_known(error: BaseException) -> PgkeepError:
    """Any exception as one of ours. ``OSError`` is the machine's, everything else a bug."""
    if isinstance(error, PgkeepError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            "There is no space left.",
            why=f"{error}.",
            remedy="Free some, then run the command again.",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return LocalIOError(
            "The local system refused something.",
            why=f"{error}.",
            remedy="Check the path named above, its owner and its mode.",
        )
    if isinstance(error, MemoryError):
        return PgkeepError(
            "There is not enough memory.", remedy="Run with fewer workers (PGKEEP_JOBS=1)."
        )
    detail = str(error).splitlines()[0][:200] if str(error) else "no details"
    return PgkeepError(
        f"pgkeep has a bug: {type(error).__name__}: {detail}",
        remedy="Please report it, with the output of the same command with -v.",
    )
