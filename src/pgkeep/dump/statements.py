"""SQL scripts taken apart, as far as pg_dumpall's need it: statements, and whom each is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_DOLLAR = re.compile(r"\$([A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$")
_NAME = r'("(?:[^"]|"")*"|[^\s",;]+)'
_ROLE = re.compile(rf"(CREATE|ALTER|COMMENT ON|SECURITY LABEL .*? ON) ROLE {_NAME}", re.DOTALL)
_GRANT = re.compile(rf"GRANT {_NAME} TO {_NAME}")
_TABLESPACE = re.compile(
    rf"(?:(CREATE|ALTER|COMMENT ON) TABLESPACE|(?:GRANT|REVOKE) .*? ON TABLESPACE) {_NAME}",
    re.DOTALL,
)


class Statement(NamedTuple):
    """``roles`` are those it is about; ``tablespace`` the one it is about, if it is."""

    text: str
    verb: str
    roles: tuple[str, ...]
    tablespace: str | None


def parse_globals(script: str) -> list[Statement]:
    """What pg_dumpall wrote, without its comments, its settings and psql's commands."""
    return [_understood(text) for text in split_script(script) if not text.startswith("SET ")]


def split_script(script: str) -> Iterator[str]:
    """The statements of a script, without their semicolons. A line that begins with a backslash
    is psql's, not the server's."""
    begin = at = 0
    text = script
    while at < len(text):
        letter = text[at]
        if letter == "\\" and not text[begin:at].strip():
            at = begin = _line_end(text, at)
        elif text.startswith("--", at):
            stop = _line_end(text, at)
            if not text[begin:at].strip():
                begin = stop
            at = stop
        elif text.startswith("/*", at):
            at = _after(text, "*/", at + 2)
        elif letter in "'\"":
            at = _quoted_end(text, at)
        elif letter == "$" and (found := _DOLLAR.match(text, at)):
            at = _after(text, found[0], found.end())
        elif letter == ";":
            yield text[begin:at].strip()
            at = begin = at + 1
        else:
            at += 1
    if text[begin:].strip():
        yield text[begin:].strip()


def unquoted(name: str) -> str:
    """An identifier as the server knows it."""
    if name.startswith('"'):
        return name[1:-1].replace('""', '"')
    return name.lower()


def _understood(text: str) -> Statement:
    if found := _ROLE.match(text):
        return Statement(text, found[1].split()[0], (unquoted(found[2]),), None)
    if found := _TABLESPACE.match(text):
        return Statement(text, text.split()[0], (), unquoted(found[2]))
    if found := _GRANT.match(text):
        return Statement(text, "GRANT", (unquoted(found[1]), unquoted(found[2])), None)
    return Statement(text, text.split()[0], (), None)


def _quoted_end(text: str, at: int) -> int:
    """After the quoted piece that begins at ``at``. In E'…' a backslash hides what follows it."""
    mark = text[at]
    escapes = (
        mark == "'" and at > 0 and text[at - 1] in "eE" and not text[at - 2 : at - 1].isalnum()
    )
    at += 1
    while at < len(text):
        if (escapes and text[at] == "\\") or text.startswith(mark * 2, at):
            at += 2
        elif text[at] == mark:
            return at + 1
        else:
            at += 1
    return at


def _after(text: str, mark: str, at: int) -> int:
    found = text.find(mark, at)
    return len(text) if found < 0 else found + len(mark)


def _line_end(text: str, at: int) -> int:
    return _after(text, "\n", at)
