"""PostgreSQL of another Debian release, unpacked beside this machine's own.

    python3 -m tools.debian_postgres [MAJOR]    unpack it (17 unless said) and print where it is

What a release's mirror holds is unpacked by mmdebstrap into a directory, a tree, and not run in a
chroot: each program is started through *that* tree's dynamic loader with that tree's libraries, by
a two-line script. So nothing is mounted, no privilege is needed, the server can call an
``archive_command`` of this machine, and all programs see the same paths.

PostgreSQL finds its share and library directories relative to the program's own path; hence the
scripts lie in a skeleton of the tree (``usr/lib/postgresql/17/bin``) whose other directories are
links into it.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SUITES = {17: "trixie"}
"""The Debian release that has a major of which neither Debian 12 nor the embedded wheel does."""

_SOURCES = Path("/etc/apt")


class TreeError(Exception):
    """A tree could not be made; the text says why."""


def folder() -> Path:
    """Where trees are kept: ``TEST_DEBIAN_POSTGRES``, else a place that every user can reach."""
    return Path(os.environ.get("TEST_DEBIAN_POSTGRES") or "/var/tmp/pgkeep-debian-postgres")


def found() -> Iterator[Path]:
    """The directories of programs that were provided."""
    for major in SUITES:
        programs = _skeleton(major) / _programs(major)
        if programs.is_dir():
            yield programs


def provide(major: int) -> Path:
    """The directory of this major's programs, unpacked if it is not there. Raises TreeError."""
    programs = _skeleton(major) / _programs(major)
    if not programs.is_dir():
        tree = folder() / f"{major}-tree"
        shutil.rmtree(tree, ignore_errors=True)
        make_tree(tree, SUITES[major], [f"postgresql-{major}"])
        wrap_tree(tree, major, _skeleton(major))
    return programs


def make_tree(tree: Path, suite: str, packages: Sequence[str]) -> None:
    """Unpack a Debian release with these packages (about 400 MB, half a minute).

    Raises TreeError.
    """
    mmdebstrap = shutil.which("mmdebstrap")
    if mmdebstrap is None:
        raise TreeError("mmdebstrap is not installed (Debian: apt-get install mmdebstrap).")
    command = [mmdebstrap, "--variant=minbase", f"--include={','.join(packages)}"]
    # A mirror may be a snapshot whose Release file is past its date.
    command += ['--aptopt=Acquire::Check-Valid-Until "false"', suite, str(tree)]
    mirror = _apt_mirror()
    if mirror is not None:
        command.append(mirror)
    tree.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TreeError(f"mmdebstrap could not make {tree}:\n{done.stderr[-2000:]}")
    tree.chmod(0o755)


def wrap_tree(tree: Path, major: int, skeleton: Path, *, others: Sequence[Path] = ()) -> Path:
    """Write one starting script for each program of PostgreSQL in the tree, and for ``others`` of
    it; returns the directory where they are. Raises TreeError."""
    libraries = next(iter(sorted(tree.glob(f"usr/lib/{platform.machine()}-linux-gnu*"))), None)
    loaders = sorted(tree.glob("lib64/ld-linux-*.so.*")) or sorted(tree.glob("lib/ld-linux-*"))
    programs = tree / _programs(major)
    if libraries is None or not loaders or not programs.is_dir():
        raise TreeError(f"{tree} is not a Debian tree with PostgreSQL {major}; remove it.")
    loader = tree / "usr/lib" / loaders[0].readlink().relative_to("../lib")
    shutil.rmtree(skeleton, ignore_errors=True)
    target = skeleton / _programs(major)
    # Under its name only when all of it is there.
    work = target.with_name("new")
    work.mkdir(parents=True)
    (target.parent / "lib").symlink_to(programs.parent / "lib")
    (skeleton / "usr/share").symlink_to(tree / "usr/share")
    for program in [*programs.iterdir(), *others]:
        script = work / program.name
        named = str(target / program.name)
        start = [str(loader), "--library-path", str(libraries), "--argv0", named]
        script.write_text(f'#!/bin/sh\nexec {shlex.join([*start, str(program)])} "$@"\n')
        script.chmod(0o755)
    work.rename(target)
    return target


def _programs(major: int) -> str:
    return f"usr/lib/postgresql/{major}/bin"


def _skeleton(major: int) -> Path:
    return folder() / str(major)


def _apt_mirror() -> str | None:
    """The first Debian mirror of this machine's own apt sources; None leaves the default."""
    for path in sorted(_SOURCES.glob("sources.list.d/*.sources")):
        for line in path.read_text().splitlines():
            match = re.match(r"URIs:\s*(\S+/debian)/?(\s|$)", line)
            if match:
                return match.group(1)
    for path in [_SOURCES / "sources.list", *sorted(_SOURCES.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+/debian)/?\s", line)
            if match:
                return match.group(1)
    return None


def main(arguments: list[str]) -> int:
    """Provide one, and say where."""
    major = int(arguments[0]) if arguments else max(SUITES)
    try:
        print(f"PostgreSQL {major}: {provide(major)}")
    except TreeError as error:
        print(f"PostgreSQL {major}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
