"""Whether what a page shows is what a command prints, apart from what differs from run to run."""

from __future__ import annotations

import re

_DAY = r"(?:today|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun))"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_VARYING = (
    (rf"{_DAY}(?: \d+ {_MONTH})? \d\d:\d\d(?::\d\d)?", "MOMENT"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00|\+00|Z)?", "MOMENT"),
    (r"\b\d{8}T\d{6}Z", "BACKUP"),
    (r"\b[0-9A-F]{8,24}\b", "WAL"),
    (r"\b[0-9A-F]+/[0-9A-F]{1,8}\b", "LSN"),
    (r"\b[0-9a-f]{12,64}\b", "HASH"),
    (r"\bage1[0-9a-z]+…?", "KEY"),
    (r"\d+(?:\.\d+)? (?:B|[KMGT]iB)\b", "SIZE"),
    (r"\bjust now\b", "TIME ago"),
    (r"\b(?:\d+[hm] )?\d+(?:\.\d+)? ?(?:ms|s|min|h)\b", "TIME"),
    (r"\d+", "0"),
    (r"\s+", " "),
)


def plain(line: str) -> str:
    """A line without what chance, clocks and sizes put into it."""
    for pattern, word in _VARYING:
        line = re.sub(pattern, word, line)
    return line.strip()


def missing_line(shown: list[str], printed: str) -> str | None:
    """The first shown line that was not printed after those before it; None when all were."""
    lines = iter(map(plain, printed.splitlines()))
    for line in shown:
        wanted = plain(line)
        if wanted != "…" and not any(wanted == one for one in lines):
            return line
    return None
