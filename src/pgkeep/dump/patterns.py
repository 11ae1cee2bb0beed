"""Names that a person chooses by: the name itself, else a pattern of the shell's.

A name may hold what means something in a pattern: ``a[1]`` is a database of that name where there
is one, and the pattern for ``a1`` where there is none.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase


def fitting(names: Collection[str], pattern: str) -> set[str]:
    """Those that it means."""
    if pattern in names:
        return {pattern}
    return {name for name in names if fnmatchcase(name, pattern)}
