"""Finding PostgreSQL's programs of the right major, for the commands that a restore shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_SECONDS = 10


def find_pg_ctl(major: int, *, path: str | None = None) -> str | None:
    """The absolute path of a ``pg_ctl`` of this major version; None if none is found.

    Debian's directories first, then Red Hat's, then the search path (``path``, by default that of
    the process).
    """
    places = [f"/usr/lib/postgresql/{major}/bin/pg_ctl", f"/usr/pgsql-{major}/bin/pg_ctl"]
    on_path = shutil.which("pg_ctl", path=path)
    for place in [*places, on_path]:
        if place is not None and Path(place).exists() and _major(place) == major:
            return place
    return None


def ask(program: str | Path, option: str) -> str:
    """What a program prints when it is given one option; nothing where it cannot be run."""
    try:
        done = subprocess.run(
            [program, option],
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _major(program: str) -> int | None:
    found = re.search(r"\(PostgreSQL\) (\d+)", ask(program, "--version"))
    return int(found[1]) if found else None
