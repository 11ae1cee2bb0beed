"""Memory is bounded by the number of workers, however many increments there are (invariant 14)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pgkeep.storage.local import LocalStore
from tests.restore.layers import Layers

LIMIT_MIB = 270
FILE_BYTES = 96 << 20
INCREMENTS = 30

# The high-water mark of the program itself: getrusage would count what it was forked from.
PROGRAM = r"""
    import re, sys
    from pathlib import Path
    from pgkeep.repository.host import HostState
    from pgkeep.repository.identity import Unlock, open_repository
    from pgkeep.repository.manifest import read_manifest
    from pgkeep.storage.local import LocalStore
    from tests.repository.kit import HEAD, LAYOUT
    from tests.restore.layers import Landing

    root = Path(sys.argv[1])
    store = LocalStore(root / "repo")
    repository = open_repository(store, HostState(root / "state"), unlock=Unlock())
    manifest = read_manifest(store, LAYOUT.manifest(HEAD.backup), repository.keyring)
    Landing(repository, manifest, root / "into").run(jobs=2)
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_two_workers_need_no_more_for_thirty_increments(tmp_path: Path) -> None:
    """Four files, all frames of whose increments reach from end to end; nothing compresses."""
    chance = random.Random(1)
    store = LocalStore(tmp_path / "repo", create=True)
    layers = Layers(tmp_path, store=store)
    noise = chance.randbytes(FILE_BYTES)
    for number in range(4):
        file = layers.file(f"base/{number}", FILE_BYTES)
        file.content[:] = noise
        layers.store(file, range(file.pages))
    for _ in range(INCREMENTS):
        layers.next_backup()
        for file in layers.files.values():
            layers.store(file, sorted(chance.sample(range(file.pages), file.pages // 100)))
    layers.manifest()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    for path in layers.files:
        assert (tmp_path / "into" / path).read_bytes() == noise
    assert 100 < int(done.stdout) < LIMIT_MIB
