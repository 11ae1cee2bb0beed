"""Where PostgreSQL and pgBackRest come from: this machine, or a Debian tree beside it.

pgBackRest publishes no binaries, and a stable distribution carries an old one. So unless both
programs are on this machine, Debian's newest are unpacked by mmdebstrap into a directory of
their own. They are not run in a chroot: each is started through *that* tree's dynamic loader
with that tree's libraries, by a two-line script. So nothing is mounted, no privilege is
needed, the server can call an ``archive_command`` of this machine, and all programs see the
same paths.

PostgreSQL finds its share and library directories relative to the program's own path; hence
the scripts lie in a skeleton of the tree (``usr/lib/postgresql/18/bin``) whose other
directories are links into it.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MAJOR = 18
PACKAGES = ("pgbackrest", f"postgresql-{MAJOR}")
SOURCES = Path("/etc/apt")


class BenchError(Exception):
    """The benchmark cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Peers:
    """Programs of others, ready to be started by path."""

    postgres_bin: Path
    pgbackrest: Path
    source: str

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str(self.postgres_bin / name)

    def versions(self) -> dict[str, str]:
        """What each program says of itself."""
        return {
            "PostgreSQL": _number(_first_line([self.program("postgres"), "--version"])),
            "pgBackRest": _number(_first_line([str(self.pgbackrest), "version"])),
        }


def prepare_peers(work: Path, *, tree: Path | None) -> Peers:
    """The programs on this machine, or those of ``tree``, which is made if it is not there.

    Raises BenchError if neither is possible.
    """
    if tree is None:
        local = find_local()
        if local is not None:
            return local
        tree = work / "peers"
    if not (tree / "usr/bin/pgbackrest").exists():
        make_tree(tree)
    return wrap_tree(tree, work / "bin")


def find_local() -> Peers | None:
    """pgBackRest on PATH together with an installed PostgreSQL of the wanted major, or None."""
    pgbackrest = shutil.which("pgbackrest")
    places = [Path(f"/usr/lib/postgresql/{MAJOR}/bin")]
    on_path = shutil.which("postgres")
    if on_path is not None:
        places.append(Path(on_path).resolve().parent)
    for place in places:
        server = place / "postgres"
        if pgbackrest and server.exists() and f" {MAJOR}." in _first_line([server, "--version"]):
            return Peers(place, Path(pgbackrest), "installed on this machine")
    return None


def make_tree(tree: Path) -> None:
    """Unpack Debian sid with the peers into ``tree`` (about 400 MB, half a minute)."""
    mmdebstrap = shutil.which("mmdebstrap")
    if mmdebstrap is None:
        raise BenchError(
            "pgBackRest and PostgreSQL 18 are not installed here, and neither is mmdebstrap, "
            "which would fetch them. Install either (Debian: apt-get install mmdebstrap)."
        )
    command = [mmdebstrap, "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    # A mirror may be a snapshot whose Release file is past its date.
    command += ['--aptopt=Acquire::Check-Valid-Until "false"', "sid", str(tree)]
    mirror = apt_mirror()
    if mirror is not None:
        command.append(mirror)
    tree.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"mmdebstrap could not make {tree}:\n{done.stderr[-2000:]}")
    tree.chmod(0o755)


def apt_mirror() -> str | None:
    """The first Debian mirror of this machine's own apt sources; None leaves the default."""
    found = sorted(SOURCES.glob("sources.list.d/*.sources"))
    for path in found:
        for line in path.read_text().splitlines():
            match = re.match(r"URIs:\s*(\S+/debian)/?(\s|$)", line)
            if match:
                return match.group(1)
    for path in [SOURCES / "sources.list", *sorted(SOURCES.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+/debian)/?\s", line)
            if match:
                return match.group(1)
    return None


def wrap_tree(tree: Path, skeleton: Path) -> Peers:
    """Write one starting script for each program of the tree; returns where they are."""
    libraries = next(iter(sorted(tree.glob(f"usr/lib/{platform.machine()}-linux-gnu*"))), None)
    loaders = sorted(tree.glob("lib64/ld-linux-*.so.*")) or sorted(tree.glob("lib/ld-linux-*"))
    programs = tree / f"usr/lib/postgresql/{MAJOR}/bin"
    if libraries is None or not loaders or not programs.is_dir():
        raise BenchError(f"{tree} is not a Debian tree with PostgreSQL {MAJOR}; remove it.")
    loader = tree / "usr/lib" / loaders[0].readlink().relative_to("../lib")
    shutil.rmtree(skeleton, ignore_errors=True)
    target = skeleton / f"usr/lib/postgresql/{MAJOR}"
    (target / "bin").mkdir(parents=True)
    (target / "lib").symlink_to(tree / f"usr/lib/postgresql/{MAJOR}/lib")
    (skeleton / "usr/share").symlink_to(tree / "usr/share")
    for program in [*programs.iterdir(), tree / "usr/bin/pgbackrest"]:
        script = target / "bin" / program.name
        start = [str(loader), "--library-path", str(libraries), "--argv0", str(script)]
        script.write_text(f'#!/bin/sh\nexec {shlex.join([*start, str(program)])} "$@"\n')
        script.chmod(0o755)
    return Peers(target / "bin", target / "bin/pgbackrest", "Debian sid packages")


def _number(text: str) -> str:
    match = re.search(r"\d+\.\d[\w.]*", text)
    return match.group() if match else text


def _first_line(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]
