"""What of this machine does not fit what is restored, said while it can still be changed.

A data directory is more than its files: text indexes are in the order of one version of the C
library, extensions need their libraries, and the files are those of one kind of processor. None of
it stops a restore, since the server may be started elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pgkeep.restore.here import Here
from pgkeep.restore.preflight_facts import list_of, listed
from pgkeep.restore.preflight_memory import memory_misfits
from pgkeep.restore.preflight_text import text_misfits

_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}


def misfits(server: Mapping[str, Any], here: Here) -> tuple[str, ...]:
    """Warnings, each with what to do. ``server`` are the facts that the manifest has; what it does
    not say is not looked at."""
    found = (
        _machine(server, here),
        _minor(server, here),
        *text_misfits(server, here),
        _preloaded(server, here),
        _extensions(server, here),
        *memory_misfits(server, here.memory),
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


def _minor(server: Mapping[str, Any], here: Here) -> str | None:
    was = server.get("version_num")
    if here.postgres is None or not isinstance(was, int):
        return None
    major, _, minor = here.postgres.partition(".")
    if int(major) != was // 10000 or int(minor) >= was % 10000:
        return None
    return (
        f"The cluster was written by PostgreSQL {was // 10000}.{was % 10000}, and {here.postgres} "
        "here is older: what was repaired in between is not repaired here. Update it before the "
        "start."
    )


def _preloaded(server: Mapping[str, Any], here: Here) -> str | None:
    if here.libraries is None:
        return None
    names = [str(name) for name in list_of(server, "shared_preload_libraries")]
    plain = [name.removeprefix("$libdir/").removesuffix(".so") for name in names]
    missing = [
        name for name in plain if "/" not in name and not (here.libraries / f"{name}.so").exists()
    ]
    if not missing:
        return None
    return (
        f"The server loads {listed(missing)} when it starts, which is not in {here.libraries}: "
        "until that is installed it does not start here."
    )


def _extensions(server: Mapping[str, Any], here: Here) -> str | None:
    if here.share is None:
        return None
    names = [str(one[0]) for one in list_of(server, "extensions") if isinstance(one, list) and one]
    missing = [n for n in names if not (here.share / "extension" / f"{n}.control").exists()]
    if not missing:
        return None
    return (
        f"The cluster uses {listed(missing)}, which is not installed in {here.share}: what needs "
        "it fails here until it is."
    )
