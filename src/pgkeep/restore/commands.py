"""The commands that a restore prints: to start the copy, and to make it the original.

They are meant to be pasted as they stand, by whoever ran the restore. So they name programs and
places absolutely, become the owner where root ran the restore, and ask no server anything: a
statement could reach the original by mistake, files cannot. (Tried: a file of ALTER SYSTEM
statements for psql. Without the copy's port, they went to the original.)
"""

from __future__ import annotations

import shlex
import shutil
import socket
from pathlib import Path

from pgkeep.postgres.exclusions import COPY_MARK
from pgkeep.restore.plan import Owner

ADOPT_CONF = "pgkeep.adopt.conf"
START_LOG = "pgkeep.start.log"
_LAST_PORT = 65535


def start_command(into: Path, pg_ctl: str | None, *, owner: Owner, port: int | None) -> str:
    """How to start the restored server; on a port of its own if the original runs here."""
    options = [] if port is None else ["-o", f"-p {port}"]
    return _as_owner(
        [*_pg_ctl(pg_ctl, into), "-l", str(into / START_LOG), *options, "start"], owner
    )


def adopt_commands(into: Path, pg_ctl: str | None, *, owner: Owner) -> tuple[str, ...]:
    """What makes a copy the original, one command a line, once the original is stopped for good."""
    commands = (
        [*_pg_ctl(pg_ctl, into), "stop"],
        ["mv", str(into / ADOPT_CONF), str(into / "postgresql.auto.conf")],
        ["rm", str(into / COPY_MARK)],
        [*_pg_ctl(pg_ctl, into), "-l", str(into / START_LOG), "start"],
    )
    return tuple(_as_owner(command, owner) for command in commands)


def drop_command(
    file: Path,
    pg_ctl: str | None,
    *,
    owner: Owner,
    place: tuple[str, int],
    database: str,
    user: str | None,
) -> str:
    """How to run the file that drops what was left out. ``place`` is host and port; without them
    psql would connect to whatever the environment names."""
    psql = str(Path(pg_ctl).with_name("psql")) if pg_ctl else "psql"
    host, port = place
    words = [psql, "-X", "-h", host, "-p", str(port), "-d", database]
    words += ["-U", user] if user else []
    return _as_owner([*words, "-f", str(file)], owner)


def free_port(first: int) -> int:
    """The first port from ``first`` on that nobody on this machine listens on."""
    for port in range(first, _LAST_PORT + 1):
        if any(Path(place, f".s.PGSQL.{port}").exists() for place in _SOCKET_FOLDERS):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return first


_SOCKET_FOLDERS = ("/tmp", "/run/postgresql", "/var/run/postgresql")


def _pg_ctl(pg_ctl: str | None, into: Path) -> list[str]:
    return [pg_ctl or "pg_ctl", "-D", str(into)]


def _as_owner(words: list[str], owner: Owner) -> str:
    if owner.change:
        become = ["runuser", "-u", owner.name, "--"]
        if shutil.which("runuser") is None:
            become = ["sudo", "-u", owner.name, "--"]
        words = [*become, *words]
    return shlex.join(words)
