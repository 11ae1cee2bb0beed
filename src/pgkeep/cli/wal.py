"""``wal-push`` and ``wal-fetch``, as the server calls them: past argparse, straight to the work.

The server understands exit codes only, and gives them a meaning of its own:

* ``wal-push``: 0 lets it recycle the file. Above 125 the archiver would restart instead of
  trying again, so every error lies below.
* ``wal-fetch``: 1 ends recovery (on a standby it means: later), 200 stops the server. So 1 is said
  of a file that is positively absent and, where that does no harm, of any failure.

A Python that cannot start, or does not find this package, says 1 too. So the restore command
that ``restore`` writes asks for another code with ``--absent-exit``, and its shell makes 1 of that
and 200 of all else.

Whatever happens in here ends in one of these codes, a bug and a lack of memory included. Signals
keep their default effect, since the server judges by it whether it was a shutdown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from pgkeep.errors import PgkeepError, UsageError

EXIT_ABSENT = 1
EXIT_FATAL = 200
_MOST_FOR_PUSH = 125

_VALUES = {
    "wal-push": ("--config", "--repo", "--cluster", "--pgdata", "--progress"),
    "wal-fetch": (
        *("--config", "--repo", "--cluster", "--pgdata", "--progress"),
        *("--plan", "--retry-seconds", "--absent-exit"),
    ),
}
_SWITCHES = {"--json": "--json", "-v": "--verbose", "--verbose": "--verbose"}
_ARGUMENTS = {"wal-push": "%p", "wal-fetch": "%f %p"}


class Options(NamedTuple):
    """The command line, taken apart. ``started`` is when, by the monotonic clock, in seconds."""

    command: str
    files: tuple[str, ...]
    values: dict[str, str]
    switches: frozenset[str]
    started: float

    def value(self, name: str) -> str | None:
        """The value of ``--name``, if given."""
        return self.values.get(f"--{name}")

    def has(self, name: str) -> bool:
        """Whether the switch ``--name`` was given."""
        return f"--{name}" in self.switches


def main(argv: Sequence[str]) -> int:
    """Run ``["wal-push", …]`` or ``["wal-fetch", …]`` and return the exit code; never raises."""
    started = time.monotonic()
    push = argv[0] == "wal-push"
    try:
        _default_signals()
        options = parse_options(argv, started=started)
        if push:
            from pgkeep.cli.wal_push import push as run
        else:
            from pgkeep.cli.wal_fetch import fetch as run
        run(options)
    except BaseException as error:
        if "--prefetch" in argv:
            return 0
        code = _push_code(error) if push else _fetch_code(error, argv)
        _report(argv, error, code)
        return code
    return 0


def parse_options(argv: Sequence[str], *, started: float) -> Options:
    """Take the command line apart. Raises ``UsageError``."""
    command = argv[0]
    files: list[str] = []
    values: dict[str, str] = {}
    switches: set[str] = set()
    words = list(argv[:0:-1])
    while words:
        word = words.pop()
        name, equals, value = word.partition("=")
        if word in _SWITCHES:
            switches.add(_SWITCHES[word])
        elif word == "--prefetch":
            switches.add(word)
        elif name in _VALUES[command] and (equals or words):
            values[name] = value if equals else words.pop()
        elif word.startswith("-"):
            raise _usage(command, f"{word} is not an option of {command}, or lacks its value.")
        else:
            files.append(word)
    wanted = len(_ARGUMENTS[command].split())
    if len(files) != wanted:
        raise _usage(command, f"{command} was called with {len(files)} files instead of {wanted}.")
    return Options(command, tuple(files), values, frozenset(switches), started)


def _usage(command: str, what: str) -> UsageError:
    setting = "archive_command" if command == "wal-push" else "restore_command"
    return UsageError(what, remedy=f"Write: {setting} = 'pgkeep {command} {_ARGUMENTS[command]}'")


def _default_signals() -> None:
    """Python turns SIGINT into an exception, and the server may have it ignored."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def _push_code(error: BaseException) -> int:
    code = error.exit_code if isinstance(error, PgkeepError) else 1
    return code if 0 < code <= _MOST_FOR_PUSH else 1


def _fetch_code(error: BaseException, argv: Sequence[str]) -> int:
    from pgkeep.archive.cluster import may_be_denied
    from pgkeep.errors import WalNotFound

    histories = [word for word in argv if word.endswith(".history")]
    if isinstance(error, WalNotFound) or may_be_denied("", histories[0] if histories else ""):
        return absent_exit(argv)
    return EXIT_FATAL


def absent_exit(argv: Sequence[str]) -> int:
    """The exit code that says "absent": 1, unless the caller asked for another one."""
    for word in argv:
        name, _, value = word.partition("=")
        if name == "--absent-exit" and value.isdecimal() and 0 < int(value) < _MOST_FOR_PUSH:
            return int(value)
    return EXIT_ABSENT


def _report(argv: Sequence[str], error: BaseException, code: int) -> None:
    """Tell the server's log. A file that is absent in good order is told only on request."""
    from pgkeep.errors import WalNotFound

    loud = bool({"--json", "-v", "--verbose"} & set(argv))
    if isinstance(error, WalNotFound) and not loud:
        return
    try:
        text = f"{argv[0]}: {_text_of(argv, error, code)}\n"
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except BaseException:
        return


def _text_of(argv: Sequence[str], error: BaseException, code: int) -> str:
    from pgkeep.cli.failure import as_known, error_text

    known = as_known(error)
    known.exit_code = code
    if "--json" in argv:
        from pgkeep.cli.output import as_json

        print(as_json(known.as_dict()), file=sys.stdout, flush=True)
    text = error_text(known)
    if {"-v", "--verbose"} & set(argv) and not isinstance(error, PgkeepError):
        import traceback

        text += "\n" + "".join(traceback.format_exception(error))
    return text
