"""SQL text made by us: identifiers and strings, quoted so that any name survives."""

from __future__ import annotations


def quote_name(name: str) -> str:
    """An SQL identifier, quoted unless it is plain."""
    if name.isidentifier() and name.islower() and name.isascii():
        return name
    return quote_always(name)


def quote_always(name: str) -> str:
    """An SQL identifier in quotes: also a name that is a key word keeps its meaning."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """An SQL string, for a session in which standard_conforming_strings is on."""
    return "'" + text.replace("'", "''") + "'"
