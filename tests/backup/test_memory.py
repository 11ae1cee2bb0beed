"""Memory is bounded by the number of workers, not by the size of the cluster (invariant 14)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LIMIT_MIB = 300
DATA_MIB = 640

# The high-water mark of the program itself: getrusage would count what it was forked from.
PROGRAM = r"""
    import re, sys
    from pathlib import Path
    from pgkeep.storage.local import LocalStore
    from tests.backup.scratch import Scratch

    root = Path(sys.argv[1])
    scratch = Scratch(root, sealed=True, store=LocalStore(root / "repo", create=True))
    scratch.copy()
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_two_workers_stay_below_300_mib(tmp_path: Path) -> None:
    """Bytes that do not compress, and more than twice of what is allowed."""
    folder = tmp_path / "data" / "pg_multixact"
    folder.mkdir(parents=True)
    noise = os.urandom(32 << 20)
    for number in range(DATA_MIB // 32):
        (folder / f"{number:04X}").write_bytes(noise)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert 100 < int(done.stdout) < LIMIT_MIB
