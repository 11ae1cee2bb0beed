"""Which locales this machine has, and in which order its ICU sorts.

Both are asked of the libraries themselves, for a server cannot be: there is none yet. ICU is the
one that PostgreSQL's program here was linked with; whatever else is installed does not matter.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable
from pathlib import Path

_LIBRARY = re.compile(rb"libicui18n\.so\.([0-9]{2,3})\0")
# <bits/locale.h> of glibc: 1 << LC_CTYPE, 1 << LC_COLLATE
_CTYPE, _COLLATE = 1 << 0, 1 << 3


def has_locale(name: str) -> bool:
    """Whether the C library knows a locale, as the server asks when somebody connects.

    True where that cannot be found out.
    """
    try:
        library = ctypes.CDLL(None)
        make = library.newlocale
        make.restype, make.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p],
        )
        made = make(_CTYPE | _COLLATE, name.encode(), None)
    except (OSError, AttributeError, ValueError):
        return True
    if not made:
        return False
    library.freelocale.argtypes = [ctypes.c_void_p]
    library.freelocale(made)
    return True


def icu_of(postgres: Path) -> Callable[[str], str | None] | None:
    """What says the version of a locale's order, as PostgreSQL writes it (``153.112``), by the ICU
    that a ``postgres`` program loads. None where it loads none, or that cannot be loaded here."""
    try:
        with (
            open(postgres, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            found = _LIBRARY.search(content)
            major = found[1].decode() if found is not None else None
        if major is None:
            return None
        library = ctypes.CDLL(f"libicui18n.so.{major}")
        start, version, end = (
            getattr(library, f"ucol_{name}_{major}") for name in ("open", "getVersion", "close")
        )
    except (OSError, ValueError, AttributeError):
        return None
    start.restype = ctypes.c_void_p
    start.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)]
    version.argtypes, version.restype = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8)], None
    end.argtypes, end.restype = [ctypes.c_void_p], None

    def ask(locale: str) -> str | None:
        problem = ctypes.c_int(0)
        collator = start(locale.encode(), ctypes.byref(problem))
        if not collator or problem.value > 0:  # below zero are warnings
            return None
        numbers = (ctypes.c_uint8 * 4)()
        version(collator, numbers)
        end(collator)
        return _version_text(list(numbers))

    return ask


def _version_text(numbers: list[int]) -> str:
    """``u_versionToString``: zeros at the end are left out, but for the second number."""
    while len(numbers) > 2 and numbers[-1] == 0:
        numbers.pop()
    return ".".join(map(str, numbers))
