"""What of this machine does not fit what is restored, said while it can still be changed.

A data directory is more than its files: text indexes are in the order of one version of the C
library, extensions need their libraries, and the files are those of one kind of processor. None of
it stops a restore, since the server may be started elsewhere.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pgkeep.restore.binaries import ask, find_pg_ctl

_NO_ORDER = ("C", "POSIX")
_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}


class Here(NamedTuple):
    """This machine. ``glibc`` is its version, None where the C library is another one;
    ``libraries`` and ``share`` are those of a PostgreSQL of the right major, None for none."""

    machine: str
    glibc: str | None
    libraries: Path | None
    share: Path | None


def look_here(major: int) -> Here:
    """Looks for PostgreSQL's own directories with ``pg_config``."""
    pg_ctl = find_pg_ctl(major)
    pg_config = Path(pg_ctl).with_name("pg_config") if pg_ctl else None
    return Here(
        platform.machine(),
        _glibc(),
        _directory(pg_config, "--pkglibdir"),
        _directory(pg_config, "--sharedir"),
    )


def misfits(server: Mapping[str, Any], here: Here) -> tuple[str, ...]:
    """Warnings, each with what to do. ``server`` are the facts that the manifest has; what it does
    not say is not looked at."""
    found = (
        _machine(server, here),
        _collation(server, here),
        _preloaded(server, here),
        _extensions(server, here),
    )
    return tuple(text for text in found if text)


def _machine(server: Mapping[str, Any], here: Here) -> str | None:
    found = re.search(r" on ([a-z0-9_]+)-", str(server.get("version", "")))
    if found is None:
        return None
    was, now = (_SAME_MACHINE.get(name, name) for name in (found[1], here.machine))
    if was == now:
        return None
    return (
        f"The cluster was written on {was}, and this is {now}: PostgreSQL does not promise that "
        f"it can read such files. Start it on {was}, and take a dump from there to move."
    )


def _collation(server: Mapping[str, Any], here: Here) -> str | None:
    was = server.get("libc_collation_version")
    if not isinstance(was, str) or was == here.glibc:
        return None
    names = [
        str(one.get("name"))
        for one in _list(server, "databases")
        if isinstance(one, dict)
        and one.get("provider") == "libc"
        and one.get("actual_version")
        and one.get("collate") not in _NO_ORDER
    ]
    if not names:
        return None
    now = f"glibc {here.glibc}" if here.glibc else "another C library"
    return (
        f"The backup's text is in the order of glibc {was}, and this machine has {now}: after the "
        f"restore indexes on text may be wrong in {_listed(names)}. Start it where glibc is {was} "
        "(the same image), or run in each of them, before it is used: REINDEX DATABASE name; "
        "ALTER DATABASE name REFRESH COLLATION VERSION;"
    )


def _preloaded(server: Mapping[str, Any], here: Here) -> str | None:
    if here.libraries is None:
        return None
    names = [str(name) for name in _list(server, "shared_preload_libraries")]
    plain = [name.removeprefix("$libdir/").removesuffix(".so") for name in names]
    missing = [
        name for name in plain if "/" not in name and not (here.libraries / f"{name}.so").exists()
    ]
    if not missing:
        return None
    return (
        f"The server loads {_listed(missing)} when it starts, which is not in {here.libraries}: "
        "until that is installed it does not start here."
    )


def _extensions(server: Mapping[str, Any], here: Here) -> str | None:
    if here.share is None:
        return None
    names = [str(one[0]) for one in _list(server, "extensions") if isinstance(one, list) and one]
    missing = [n for n in names if not (here.share / "extension" / f"{n}.control").exists()]
    if not missing:
        return None
    return (
        f"The cluster uses {_listed(missing)}, which is not installed in {here.share}: what needs "
        "it fails here until it is."
    )


def _list(server: Mapping[str, Any], name: str) -> list[Any]:
    """A fact that is a list; empty for anything else that a manifest may hold."""
    found = server.get(name)
    return found if isinstance(found, list) else []


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _glibc() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" else None


def _directory(pg_config: Path | None, option: str) -> Path | None:
    text = ask(pg_config, option) if pg_config is not None else ""
    return Path(text) if text and Path(text).is_dir() else None
