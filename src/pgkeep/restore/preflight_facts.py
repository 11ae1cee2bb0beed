"""Reading facts of a manifest that may hold anything, and naming what was found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def list_of(server: Mapping[str, Any], name: str) -> list[Any]:
    """A fact that is a list; empty for anything else that a manifest may hold."""
    found = server.get(name)
    return found if isinstance(found, list) else []


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a sentence, the first of them if there are many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
