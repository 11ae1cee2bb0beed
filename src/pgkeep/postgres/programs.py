"""Finding PostgreSQL's own programs, each of the version that a task needs.

pg_dump refuses a server that is newer than itself, and an archive can be read by no pg_restore that
is older than the pg_dump which wrote it. So the version is chosen and never taken as it comes: the
lowest that is high enough, among all that the machine has.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pgkeep.errors import ProgramMissing

_SECONDS = 10
_USUAL = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql*/bin",
    "/usr/lib/postgresql*/bin",
    "/usr/libexec/postgresql*",
    "/opt/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


class Program(NamedTuple):
    """An installed program; ``version`` as it says itself: ``16.4``, ``19beta1``."""

    path: str
    version: str

    @property
    def major(self) -> int:
        return major_of(self.version)

    def __str__(self) -> str:
        return f"{Path(self.path).name} {self.version}"


def major_of(version: str) -> int:
    """Of a version as a program says it. Raises ValueError for what does not begin with one."""
    found = re.match(r"\d+", version)
    if found is None:
        raise ValueError(f"{version!r} is no version of PostgreSQL")
    return int(found[0])


def find_program(
    name: str, at_least: int, *, directories: str | None, environ: Mapping[str, str], why: str
) -> Program:
    """The program of the lowest major version from ``at_least`` up.

    ``directories`` are looked at first, separated by colons. ``why`` says what needs it, for the
    error. Raises ``ProgramMissing``.
    """
    found = installed(name, directories, environ.get("PATH", ""))
    fitting = [program for program in found if program.major >= at_least]
    if fitting:
        return min(fitting, key=lambda program: program.major)
    shown = ", ".join(f"{one.version} ({one.path})" for one in found) or "none at all"
    raise ProgramMissing(
        f"No {name} of PostgreSQL {at_least} or newer was found on this host.",
        why=f"{why} Found: {shown}.",
        remedy=f"Install the client programs of PostgreSQL {at_least} (Debian: "
        f"postgresql-client-{at_least}), or name their directory with PGKEEP_PG_BIN.",
        needed=at_least,
    )


@lru_cache
def installed(name: str, directories: str | None, path: str) -> tuple[Program, ...]:
    """Each installed program of this name that runs; the first of a version wins."""
    found: dict[str, Program] = {}
    for place in _places(directories, path):
        program = place / name
        if os.access(program, os.X_OK) and (version := _version(program)):
            found.setdefault(version, Program(str(program), version))
    return tuple(found.values())


def _places(directories: str | None, path: str) -> Iterator[Path]:
    for text in (directories or "").split(":"):
        if text:
            yield Path(text)
    for pattern in _USUAL:
        yield from sorted(Path("/").glob(pattern.lstrip("/")))
    for text in path.split(":"):
        if text.startswith("/"):
            yield Path(text)


def _version(program: Path) -> str | None:
    """What it says; None where it cannot be run. Debian's wrapper on PATH says another's version
    than it runs, but is never the only one."""
    try:
        done = subprocess.run(
            [program, "--version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", done.stdout)
    return found[1] if found else None
