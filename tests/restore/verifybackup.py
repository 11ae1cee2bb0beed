"""``pg_verifybackup``, also the one of the embedded PostgreSQL 18, whose file is damaged.

Packing the wheel moved its dynamic section over the border between a writable and a read-only
segment, so the loader dies on it, before ``main`` and for ``--version`` alike. A copy in which the
second segment is writable too runs; nothing else in it is touched.
"""

from __future__ import annotations

import shutil
import struct
from functools import cache
from pathlib import Path

from tests.installations import Installation
from tests.server_user import can_run, run_as_server_user, scrubbed_environment
from tests.servers import new_directory

_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_LOAD, _DYNAMIC, _WRITABLE = 1, 2, 2


def verify_backup(installation: Installation, path: Path) -> None:
    """Raises AssertionError unless ``pg_verifybackup -n`` finds nothing to say."""
    program, libraries = working_program(installation)
    environment = scrubbed_environment({"LD_LIBRARY_PATH": libraries} if libraries else None)
    done = run_as_server_user([program, "-n", path], env=environment, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "successfully verified" in said, said


@cache
def working_program(installation: Installation) -> tuple[Path, str]:
    """The program, and where its libraries are if it must be told."""
    program = installation.program("pg_verifybackup")
    if can_run([program, "--version"]):
        return program, ""
    copy = new_directory("verify") / program.name
    shutil.copy(program, copy)
    content = bytearray(copy.read_bytes())
    _mend(content)
    copy.write_bytes(content)
    copy.chmod(0o755)
    package = installation.bin_dir.parent.parent
    return copy, str(package.with_name(f"{package.name}.libs"))


def _mend(content: bytearray) -> None:
    """Make every segment writable on which the dynamic section lies."""
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    headers = [start + size * number for number in range(count)]
    rows = {at: _PROGRAM_HEADER.unpack_from(content, at) for at in headers}
    dynamic = next(row for row in rows.values() if row[0] == _DYNAMIC)
    first, last = dynamic[3], dynamic[3] + dynamic[6]
    for at, (kind, flags, _, address, _, _, length, _) in rows.items():
        if kind == _LOAD and address & ~4095 < last and first < address + length:
            struct.pack_into("<I", content, at + 4, flags | _WRITABLE)
