"""Where PostgreSQL and pgBackRest come from: this machine, or a Debian tree beside it.

pgBackRest publishes no binaries, and a stable distribution carries an old one. So unless both
programs are on this machine, Debian's newest are unpacked into a directory of their own, and run
from there (tools/debian_postgres.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MAJOR = 18
PACKAGES = ("pgbackrest", f"postgresql-{MAJOR}")


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
            "PostgreSQL": number_in(first_line([self.program("postgres"), "--version"])),
            "pgBackRest": number_in(first_line([str(self.pgbackrest), "version"])),
        }


def prepare_peers(work: Path, *, tree: Path | None) -> Peers:
    """The programs on this machine, or those of ``tree``, which is made if it is not there.

    Raises BenchError if neither is possible.
    """
    from tools.debian_postgres import TreeError, make_tree, wrap_tree  # of the checkout

    if tree is None:
        local = find_local()
        if local is not None:
            return local
        tree = work / "peers"
    pgbackrest = tree / "usr/bin/pgbackrest"
    try:
        if not pgbackrest.exists():
            make_tree(tree, "sid", PACKAGES)
        programs = wrap_tree(tree, MAJOR, work / "bin", others=[pgbackrest])
    except TreeError as error:
        raise BenchError(
            f"pgBackRest and PostgreSQL {MAJOR} are not installed here, and {error}"
        ) from error
    return Peers(programs, programs / "pgbackrest", "Debian sid packages")


def find_local() -> Peers | None:
    """pgBackRest on PATH together with an installed PostgreSQL of the wanted major, or None."""
    pgbackrest = shutil.which("pgbackrest")
    places = [Path(f"/usr/lib/postgresql/{MAJOR}/bin")]
    on_path = shutil.which("postgres")
    if on_path is not None:
        places.append(Path(on_path).resolve().parent)
    for place in places:
        server = place / "postgres"
        if pgbackrest and server.exists() and f" {MAJOR}." in first_line([server, "--version"]):
            return Peers(place, Path(pgbackrest), "installed on this machine")
    return None


def number_in(text: str) -> str:
    """The version in what a program says of itself; all of it if there is none."""
    match = re.search(r"\d+\.\d[\w.]*", text)
    return match.group() if match else text


def first_line(command: list[str | Path]) -> str:
    """The first line of what a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]
