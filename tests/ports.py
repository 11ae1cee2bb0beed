"""Ports of loopback for what tests start, each promised to one test process at a time.

Asking the system for a free port and giving it back promises nothing: until the program listens,
a server of another test process may get the same one, and whoever connects meets the wrong
server. So a port is held by the lock of a file for as long as this process lives, and lies below
those that the system gives to outgoing connections.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_PORTS = range(20_000, 32_000)
# Kept open: closing a file ends its lock.
_held: list[int] = []
_random = random.Random()


def free_port() -> int:
    """A port that nobody listens on, and that no other test process gets while this one lives."""
    folder = Path(tempfile.gettempdir()) / "pgkeep-test-ports"
    # Root and an ordinary user may run tests on one machine.
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
    while True:
        port = _random.choice(_PORTS)
        if _hold(folder / str(port)) and _nobody_listens(port):
            return port


def _hold(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
