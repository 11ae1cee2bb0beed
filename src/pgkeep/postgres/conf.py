"""Text of ``postgresql.conf``: reading, quoting, replacing settings.

The grammar is ``src/backend/utils/misc/guc-file.l``: one setting a line, ``name = value`` with
an optional equals sign, names case-insensitive, values bare or in single quotes, where quotes
double and backslashes escape as in C. A value never spans lines, so editing by whole lines is
exact. Of several lines for one setting the last wins.

Files are bytes in no certain encoding: decode with ``utf-8`` and ``surrogateescape``, and
encode likewise, so that what we do not understand stays as it was.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.postgres.settings import RECOVERY_SETTINGS, STANDBY_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LETTER = "A-Za-z_\x80-\U0010ffff"
_ID = f"[{_LETTER}][{_LETTER}0-9$]*"
_SETTING = re.compile(
    rf"[ \t\r]*(?P<name>{_ID}(?:\.{_ID})*)[ \t\r]*(?:=[ \t\r]*)?"
    r"(?:'(?P<quoted>(?:[^'\\]|\\.|'')*)'|(?P<bare>[^\s'#=][^\s'#]*))?"
)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE = re.compile(r"''|\\([0-7]{1,3}|.)", re.DOTALL)
_INCLUDES = ("include", "include_if_exists", "include_dir")


class Include(NamedTuple):
    """An include directive: its kind as written, and its path as written."""

    kind: str
    path: str


def quote_conf_value(value: str) -> str:
    """A value in single quotes, as ``ALTER SYSTEM`` writes it. Raises ValueError for NUL."""
    if "\0" in value:
        raise ValueError("a setting cannot hold a NUL byte")
    doubled = value.replace("\\", "\\\\").replace("'", "''")
    return "'" + doubled.replace("\n", "\\n").replace("\r", "\\r") + "'"


def unquote_conf_value(text: str) -> str:
    """The inner text of a quoted value, unescaped (``DeescapeQuotedString``)."""

    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped is None:
            return "'"
        if escaped[0] in "01234567":
            return chr(int(escaped, 8) & 0xFF)
        return _ESCAPES.get(escaped, escaped)

    return _ESCAPE.sub(replace, text)


def parse_conf(text: str) -> list[tuple[str, str]]:
    """All settings in order, names in lower case; include directives are left out."""
    return [entry for entry in _entries(text) if entry[0] not in _INCLUDES]


def parse_includes(text: str) -> list[Include]:
    """All include directives in order; relative paths mean the including file's directory."""
    return [Include(name, value) for name, value in _entries(text) if name in _INCLUDES]


def set_settings(text: str, settings: Mapping[str, str]) -> str:
    """Drop all lines of these settings and append each once, in the order given.

    Order matters for ``recovery_target*``: the server applies the lines of a file one by one.
    """
    kept = remove_settings(text, settings)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    return kept + "".join(
        f"{name} = {quote_conf_value(value)}\n" for name, value in settings.items()
    )


def remove_settings(text: str, names: Iterable[str]) -> str:
    """Drop every line that sets one of these; comments and all other lines stay as they are."""
    unwanted = {name.lower() for name in names}
    # Not splitlines(): a form feed or a Unicode line separator ends no line for the server.
    return "\n".join(line for line in text.split("\n") if _name_of(line) not in unwanted)


def remove_recovery_settings(text: str) -> str:
    """Drop all settings that steer recovery or follow a primary."""
    return remove_settings(text, (*RECOVERY_SETTINGS, *STANDBY_SETTINGS))


def _entries(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.split("\n"):
        match = _SETTING.match(line)
        if match is None:
            continue
        quoted, bare = match["quoted"], match["bare"]
        value = unquote_conf_value(quoted) if quoted is not None else bare
        if value is not None:
            found.append((match["name"].lower(), value))
    return found


def _name_of(line: str) -> str | None:
    match = _SETTING.match(line)
    return match["name"].lower() if match else None
