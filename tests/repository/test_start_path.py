"""wal-push starts once for every segment: what it imports from here stays light."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MODULES = (
    "pgkeep.repository.host",
    "pgkeep.repository.identity",
    "pgkeep.repository.layout",
    "pgkeep.repository.record",
    "pgkeep.repository.system",
    "pgkeep.repository.wal",
    "pgkeep.seal.age",
    "pgkeep.seal.envelope",
)
HEAVY = {
    *("blake3", "concurrent.futures", "cryptography", "dataclasses", "hashlib", "inspect"),
    *("logging", "numpy", "pyrage", "sqlite3", "subprocess", "zstandard"),
    *("pgkeep.repository.catalogue", "pgkeep.repository.manifest", "pgkeep.repository.map"),
    *("pgkeep.repository.pack", "pgkeep.postgres.history"),
}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_on_the_start_path_imports_nothing_heavy(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys, {module}; print(' '.join(sys.modules))"],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not HEAVY & loaded
