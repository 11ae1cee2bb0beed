"""Where results go: text for people, or one JSON document for machines, on standard output.

With ``--json`` standard output carries exactly one document, whatever happens: the result, or the
error. Everything that is not the result (progress, warnings, log lines) goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from pgkeep.units import to_utc_text


class Output:
    """Standard output and error of one command. ``json`` is whether a machine reads."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.json = as_json
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self._environ = environ or {}

    def result(self, document: Mapping[str, Any], render: Callable[[], None]) -> None:
        """The result of the command: as one JSON document, or as ``render`` puts it."""
        if self.json:
            print(as_json(document), file=self.stdout)
        else:
            render()
        self.stdout.flush()

    def say(self, text: str = "") -> None:
        """A line for a person; nothing with ``--json``."""
        if not self.json:
            print(text, file=self.stdout)

    def warn(self, text: str) -> None:
        """A sentence that has to be seen."""
        if self.json:
            print(as_json({"warning": text}, indent=None), file=self.stderr)
        else:
            print(f"Warning: {text}", file=self.stderr)
        self.stderr.flush()

    def tell(self, text: str) -> None:
        """A sentence beside the result, which is good to know."""
        line = as_json({"note": text}, indent=None) if self.json else text
        print(line, file=self.stderr, flush=True)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns wide enough for what they hold; no frames and no padding, so it pastes well."""
        widths = [max(len(row[i]) for row in (titles, *rows)) for i in range(len(titles))]
        for number, row in enumerate((titles, *rows)):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            line = "   ".join(cells).rstrip()
            self.say(f"\x1b[2m{line}\x1b[0m" if number == 0 and self.colour else line)

    @property
    def colour(self) -> bool:
        """Whether standard output is a terminal that may be coloured."""
        plain = self._environ.get("NO_COLOR") or self._environ.get("TERM") == "dumb"
        return self.stdout.isatty() and not plain


def as_json(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Valid JSON of anything that a command reports; moments become UTC text."""
    return json.dumps(document, indent=indent, ensure_ascii=False, default=_plain)


def close_quietly(stream: TextIO) -> None:
    """After a broken pipe: let the interpreter's last flush go nowhere."""
    handle = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(handle, stream.fileno())
    except (OSError, ValueError):
        pass  # not a real file: nothing will be flushed to it
    finally:
        os.close(handle)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return to_utc_text(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
