"""Data directories from initdb, made once a session for each kind and copied.

A copy would share its system identifier with all others, and tests of foreign WAL would pass
for the wrong reason. So each copy gets an identifier of its own, in the two places where
initdb writes it: ``ControlFileData.system_identifier`` (src/include/catalog/pg_control.h; the
first field, covered by the CRC at the end) and ``XLogLongPageHeaderData.xlp_sysid``
(src/include/access/xlog_internal.h; page headers have no CRC).
"""

from __future__ import annotations

import secrets
import struct
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import google_crc32c

from tests.installations import Installation
from tests.server_user import base_directory, run_as_server_user, server_user
from tests.warden import warden

_XLP_SYSID_OFFSET = 24
# Where the CRC may stand: the struct has grown over the versions, and ends well below 512.
_CRC_OFFSETS = range(200, 508, 4)


@cache
def template(installation: Installation, *, checksums: bool, wal_segsize_mb: int) -> Path:
    """A data directory of this kind, fresh from initdb, which nobody may start."""
    root = _template_root()
    kind = f"{installation.major}-{installation.origin}"
    name = f"{kind}-{'sums' if checksums else 'plain'}-{wal_segsize_mb}"
    options = ["--data-checksums"] if checksums else []
    if not checksums and installation.major >= 18:
        options = ["--no-data-checksums"]
    run_as_server_user(
        [
            installation.program("initdb"),
            *("-D", root / name, "-U", "postgres", "-A", "trust", "-E", "UTF8"),
            *("--locale=C", "--no-sync", f"--wal-segsize={wal_segsize_mb}"),
            *options,
        ]
    )
    return root / name


def clone(source: Path, target: Path) -> None:
    """Copy a template to a place that does not exist yet, under an identifier of its own."""
    reflink = ["--reflink=auto"] if sys.platform == "linux" else []
    subprocess.run(["cp", "-a", *reflink, source, target], check=True)
    give_identity(target, secrets.randbits(20))


@cache
def _template_root() -> Path:
    path = Path(base_directory(), f"pgktemplates{secrets.token_hex(4)}")
    path.mkdir(0o755)
    path.chmod(0o755)
    warden().keep_directory(path)
    return server_user().own(path)


def give_identity(pgdata: Path, salt: int) -> int:
    """Write a new system identifier, made of the time as initdb does, and return it."""
    identifier = (int(time.time()) << 32) | (salt << 12)
    control = pgdata / "global" / "pg_control"
    raw = bytearray(control.read_bytes())
    crc_at = _crc_offset(raw)
    struct.pack_into("=Q", raw, 0, identifier)
    struct.pack_into("=I", raw, crc_at, google_crc32c.value(bytes(raw[:crc_at])))
    control.write_bytes(raw)
    for segment in (pgdata / "pg_wal").glob("0*"):
        with open(segment, "r+b") as file:
            file.seek(_XLP_SYSID_OFFSET)
            file.write(struct.pack("=Q", identifier))
    return identifier


def _crc_offset(raw: bytes | bytearray) -> int:
    for offset in _CRC_OFFSETS:
        (stored,) = struct.unpack_from("=I", raw, offset)
        if google_crc32c.value(bytes(raw[:offset])) == stored:
            return offset
    raise AssertionError("pg_control holds no CRC where one is expected")
