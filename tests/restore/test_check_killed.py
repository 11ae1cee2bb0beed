"""A check that is killed does not leave the server that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgkeep.postgres.datadir import postmaster_running
from tests.processes import is_alive, kill_tree
from tests.program import pgkeep_program
from tests.restore.site import Site
from tests.server_user import popen_as_server_user, scrubbed_environment, server_user
from tests.servers import wait_until

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who was orphaned"),
]


def start(site: Site, into: Path, *, as_root: bool) -> subprocess.Popen[str]:
    """``pgkeep restore --check``, which finds the programs of the server under test."""
    path = f"{site.server.installation.bin_dir}:{os.environ['PATH']}"
    options: dict[str, Any] = {
        "env": scrubbed_environment({"PATH": path}),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    words: list[str | Path] = [
        pgkeep_program(),
        "--config",
        site.config,
        "restore",
        "--into",
        into,
        "--check",
    ]
    if not as_root:
        return popen_as_server_user(words, **options)
    return subprocess.Popen([*words, "--owner", server_user().name], **options)


@pytest.mark.parametrize("who", ["root", "owner"])
@pytest.mark.majors(18)
def test_its_server_ends_with_it(site: Site, who: str) -> None:
    if who == "root" and os.geteuid() != 0:
        pytest.skip("only root starts a server as somebody else")
    site.backup()
    into = site.root / "back"
    server_user().own(site.root)
    with start(site, into, as_root=who == "root") as process:
        try:
            wait_until(
                lambda: postmaster_running(into) or process.poll() is not None,
                what="the restored server runs",
            )
            server = postmaster_running(into)
            assert server is not None, process.communicate()[0]
            assert Path(f"/proc/{server}").stat().st_uid == server_user().uid
        finally:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    try:
        wait_until(lambda: not is_alive(server), what="the server has ended, too", timeout=30)
        assert postmaster_running(into) is None
    finally:
        if is_alive(server):
            kill_tree(server)
