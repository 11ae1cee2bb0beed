"""PostgreSQL with other page and segment sizes than anybody packages, built for tests.

    python3 -m tools.odd_postgres [SOURCE]      build them all and print where they are

``SOURCE`` is a release's unpacked source or its tarball; without one, apt fetches Debian 12's. Each
takes one or two minutes, and lies in a folder of its own, which the tests find.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_PACKAGE = "postgresql-15"
_SUITES = ("http://deb.debian.org/debian bookworm main",)


class Build(NamedTuple):
    """Page sizes in KiB; ``segment_pages`` is how many pages a relation's file has, 0 for the usual
    gibibyte. Few of them give a small table many files."""

    name: str
    page_kib: int
    wal_page_kib: int
    segment_pages: int

    @property
    def bin_dir(self) -> Path:
        return folder() / self.name / "bin"


BUILDS = (Build("4k", 4, 8, 16), Build("16k", 16, 16, 32), Build("32k", 32, 64, 0))


def folder() -> Path:
    """Where they are kept: ``TEST_ODD_POSTGRES``, else a place that every user can reach."""
    return Path(os.environ.get("TEST_ODD_POSTGRES") or "/var/tmp/pgkeep-odd-postgres")


def build(one: Build, source: Path) -> None:
    """Build and install one of them from unpacked source."""
    work = Path(tempfile.mkdtemp(prefix=f"pgkeep-{one.name}-"))
    try:
        options = [f"--with-blocksize={one.page_kib}", f"--with-wal-blocksize={one.wal_page_kib}"]
        options += ["--without-readline", "--without-zlib", "--without-icu", "CFLAGS=-O0"]
        prefix = one.bin_dir.parent
        _run([source / "configure", "-q", f"--prefix={prefix}", *options], work)
        if one.segment_pages:
            header = work / "src/include/pg_config.h"
            define = f"#define RELSEG_SIZE {one.segment_pages}"
            header.write_text(re.sub(r"(?m)^#define RELSEG_SIZE .*$", define, header.read_text()))
        make = ["make", "-s", f"-j{len(os.sched_getaffinity(0))}"]
        _run([*make, "-C", "src/backend", "generated-headers"], work)
        for place in (".", "contrib/amcheck"):
            _run([*make, "-C", place, "install"], work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch(into: Path) -> Path:
    """Debian's source of PostgreSQL, unpacked below ``into``."""
    sources = into / "sources.list"
    sources.write_text("".join(f"deb-src {suite}\n" for suite in _SUITES))
    lists = into / "lists/partial"
    lists.mkdir(parents=True)
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={sources}", "-o"]
    apt += ["Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={lists.parent}"]
    _run([*apt, "update"], into)
    _run([*apt, "--download-only", "source", _PACKAGE], into)
    return unpack(next(into.glob("*.orig.tar.*")), into)


def unpack(tarball: Path, into: Path) -> Path:
    """The directory that a release's tarball holds."""
    _run(["tar", "xf", tarball.absolute()], into)
    return next(path.parent for path in into.glob("*/configure"))


def _run(argv: list[str | Path], cwd: Path) -> None:
    done = subprocess.run([*map(str, argv)], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SystemExit(f"{argv[0]} failed: {' '.join(said[-3:])}")


def main(arguments: list[str]) -> int:
    """Build what is missing."""
    with tempfile.TemporaryDirectory(prefix="pgkeep-source-") as name:
        source: Path | None = None
        for one in BUILDS:
            if not (one.bin_dir / "initdb").exists():
                source = source or _source(arguments, Path(name))
                build(one, source)
            print(f"{one.name}: {one.bin_dir}", flush=True)
    return 0


def _source(arguments: list[str], into: Path) -> Path:
    if not arguments:
        return fetch(into)
    given = Path(arguments[0]).absolute()
    return given if given.is_dir() else unpack(given, into)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
