"""Which PostgreSQL this machine offers to the tests.

Debian's directories first (they have contrib and pg_amcheck's extension), then what
``pg_config`` on PATH belongs to, then what tools/debian_postgres.py has provided, then the embedded
wheel. What the server's user cannot
execute does not count, and is remembered with the reason, so that a skipped version never
looks like a tested one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pgkeep.demo.embedded import embedded_installations
from tests.server_user import can_run, server_user
from tools import debian_postgres

SUPPORTED_MAJORS = (15, 16, 17, 18)
# The oldest and the newest: no run that counts goes without them.
MUST_MAJORS = (15, 18)


@dataclass(frozen=True)
class Installation:
    major: int
    version: str
    bin_dir: Path
    # "system", "embedded", or the name of a build for tests
    origin: str

    def program(self, name: str) -> Path:
        """The path of one of its programs; AssertionError if it has no such program."""
        path = self.bin_dir / name
        assert path.exists(), f"{self} has no {name}"
        return path

    @property
    def has_contrib(self) -> bool:
        """Whether extensions such as amcheck can be created."""
        share = subprocess.run(
            [self.bin_dir / "pg_config", "--sharedir"], capture_output=True, text=True, check=False
        )
        return Path(share.stdout.strip(), "extension", "amcheck.control").exists()

    def __str__(self) -> str:
        where = "embedded" if self.origin == "embedded" else str(self.bin_dir)
        return f"PostgreSQL {self.version} ({where})"


@cache
def find_installations() -> dict[int, Installation]:
    """The installations to test with, by major version; the first found of each wins."""
    found: dict[int, Installation] = {}
    for bin_dir, origin in _candidates():
        version = _version(bin_dir)
        if version is None:
            continue
        major = int(re.match(r"\d+", version)[0])  # type: ignore[index]
        if major in found:
            continue
        if can_run([bin_dir / "postgres", "--version"]):
            found[major] = Installation(major, version, bin_dir, origin)
    return found


def why_missing(major: int) -> str:
    """The reason why ``find_installations`` has no such version, for a person to act on."""
    for bin_dir, _ in _candidates():
        version = _version(bin_dir)
        if version is not None and version.split(".")[0] == str(major):
            return f"{bin_dir} is there, but user {server_user().name} cannot execute it"
    return "not installed"


def _candidates() -> Iterator[tuple[Path, str]]:
    for bin_dir in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        yield bin_dir, "system"
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        answer = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            yield Path(answer.stdout.strip()), "system"
    for bin_dir in debian_postgres.found():
        yield bin_dir, "system"
    for bin_dir in embedded_installations().values():
        yield bin_dir, "embedded"


@cache
def _version(bin_dir: Path) -> str | None:
    """``15.18`` of ``postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)``."""
    if not (bin_dir / "postgres").exists() or not (bin_dir / "initdb").exists():
        return None
    answer = subprocess.run(
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    number = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", answer.stdout)
    return number[1] if number else None
