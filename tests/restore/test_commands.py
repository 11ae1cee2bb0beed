"""The commands that a restore prints can be pasted as they stand, and reach no other server."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

from pgkeep.restore.commands import adopt_commands, free_port, start_command
from pgkeep.restore.plan import Owner

INTO = Path("/srv/a place")
PG_CTL = "/usr/lib/postgresql/15/bin/pg_ctl"
OURSELVES = Owner(1000, 1000, "postgres", change=False)
BY_ROOT = Owner(1000, 1000, "postgres", change=True)


def test_each_command_names_the_directory_and_asks_no_server() -> None:
    for command in adopt_commands(INTO, PG_CTL, owner=OURSELVES):
        words = shlex.split(command)
        assert any(str(INTO) in word for word in words), command
        assert not any("psql" in word for word in words), command


def test_what_root_restored_is_handled_as_the_owner() -> None:
    start = start_command(INTO, PG_CTL, owner=BY_ROOT, port=None)
    for command in (start, *adopt_commands(INTO, PG_CTL, owner=BY_ROOT)):
        assert shlex.split(command)[1:4] == ["-u", "postgres", "--"], command


def test_the_server_does_not_keep_the_terminal() -> None:
    start = start_command(INTO, PG_CTL, owner=OURSELVES, port=None)
    assert shlex.split(start)[-3:-1] == ["-l", str(INTO / "pgkeep.start.log")]


def test_a_copy_beside_its_running_original_gets_a_port_that_nobody_has() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert free_port(port) > port
        start = start_command(INTO, PG_CTL, owner=OURSELVES, port=free_port(port))
    assert f"-p {port}" not in shlex.split(start)
