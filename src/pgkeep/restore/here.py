"""This machine, as far as a restored cluster depends on it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pgkeep.restore.binaries import ask, find_pg_ctl
from pgkeep.restore.locales import has_locale, icu_of
from pgkeep.restore.memory_here import MemoryHere, look_at_memory


class Here(NamedTuple):
    """``glibc`` is its version, None where the C library is another one; ``libraries`` and
    ``share`` are those of a PostgreSQL of the right major, None for none, and ``postgres`` its
    version (``17.11``). ``icu`` says in which version of an order a locale is here; without it
    ``icu_missing`` is whether that PostgreSQL can do without ICU only."""

    machine: str
    glibc: str | None
    libraries: Path | None
    share: Path | None
    postgres: str | None = None
    icu: Callable[[str], str | None] | None = None
    icu_missing: bool = False
    has_locale: Callable[[str], bool] = has_locale
    memory: MemoryHere = MemoryHere()


def look_here(major: int) -> Here:
    """Looks for PostgreSQL's own directories with ``pg_config``."""
    pg_ctl = find_pg_ctl(major)
    if pg_ctl is None:
        return Here(platform.machine(), _glibc(), None, None, memory=look_at_memory())
    pg_config = Path(pg_ctl).with_name("pg_config")
    icu = icu_of(Path(pg_ctl).with_name("postgres"))
    version = re.search(r"\(PostgreSQL\) (\d+\.\d+)", ask(pg_ctl, "--version"))
    return Here(
        platform.machine(),
        _glibc(),
        _directory(pg_config, "--pkglibdir"),
        _directory(pg_config, "--sharedir"),
        version[1] if version else None,
        icu,
        icu is None and _without_icu(major, ask(pg_config, "--configure")),
        memory=look_at_memory(),
    )


def _without_icu(major: int, configured: str) -> bool:
    """Whether a PostgreSQL was built without ICU, which is the default up to 15 only."""
    if not configured:
        return False
    return "--without-icu" in configured or (major < 16 and "--with-icu" not in configured)


def _glibc() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" else None


def _directory(pg_config: Path | None, option: str) -> Path | None:
    text = ask(pg_config, option) if pg_config is not None else ""
    return Path(text) if text and Path(text).is_dir() else None
