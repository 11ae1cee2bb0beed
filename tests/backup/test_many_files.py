"""A hundred thousand tables are a hundred thousand files: handles are bounded, and memory is little
for each of them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.factory import ServerFactory
from tests.program import pgkeep_program
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import run_as_server_user

HANDLES_OF_A_COMMAND = 96
FEW, MANY = 1_000, 6_000
HANDLES = 128
# Of one file: its name, its row, its place in the list of work, what its map needs.
MOST_BYTES_A_FILE = 6_000

PROGRAM = r"""
    import re, resource, sys
    from pathlib import Path
    from pgkeep.storage.local import LocalStore
    from tests.backup.scratch import Scratch
    from tests.repository.kit import HEAD

    root, handles = Path(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))
    scratch = Scratch(root, sealed=True, store=LocalStore(root / "repo", create=True))
    # Not the tests' own reader of manifests, which keeps all of them.
    scratch._publish = lambda manifest: manifest.build(scratch.repository.keyring, HEAD)
    scratch.copy()
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10)
"""


def peak_bytes(folder: Path, files: int) -> int:
    """The high-water mark of a process that copies so many small files with few handles."""
    for number in range(files):
        path = folder / "data/base" / str(number // 1000) / str(16384 + number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a small table")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), folder, str(HANDLES)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_handles_are_bounded_and_a_file_costs_little_memory(tmp_path: Path) -> None:
    few, many = peak_bytes(tmp_path / "few", FEW), peak_bytes(tmp_path / "many", MANY)
    assert (many - few) / (MANY - FEW) < MOST_BYTES_A_FILE


@pytest.mark.majors(18)
def test_fewer_handles_than_files_are_enough_for_backup_and_restore(
    server_factory: ServerFactory,
) -> None:
    site = Site(server_factory)
    limited = f'ulimit -n {HANDLES_OF_A_COMMAND}; exec "$0" "$@"'
    pgkeep: list[str | Path] = ["sh", "-c", limited, pgkeep_program(), "--config", site.config]
    try:
        for jobs in ("8", "2"):
            argv: list[str | Path] = [*pgkeep, "backup", "--jobs", jobs, "--read-all"]
            run_as_server_user(argv, env=site.server.env)
        for more in ((), ("--delta",)):
            argv = [*pgkeep, "restore", "--into", site.root / "back", "--latest", "--jobs", "4"]
            run_as_server_user([*argv, *more])
            verify_backup(site.server.installation, site.root / "back")
    finally:
        server_factory.close()
        site.close()
