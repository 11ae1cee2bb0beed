"""``backup_manifest``, so that ``pg_verifybackup -n`` can check a restored directory.

Format: chapter "Backup Manifest Format" of PostgreSQL's documentation, and
``src/backend/backup/backup_manifest.c``. Version 1 up to PostgreSQL 16, version 2 (with the
system identifier) from 17 on. A CRC-32C is written as its four bytes in little-endian order.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from pgkeep.repository.manifest import Head

FILE_NAME = "backup_manifest"


class ManifestFile(NamedTuple):
    """A file; ``path`` relative to the data directory, ``modified_us`` since 1970."""

    path: str
    size_bytes: int
    modified_us: int
    checksum: int


def build_backup_manifest(head: Head, files: Iterable[ManifestFile]) -> bytes:
    """The content of ``backup_manifest`` for a restored backup."""
    version = 1 if head.postgres_major < 17 else 2
    lines = [f'{{ "PostgreSQL-Backup-Manifest-Version": {version},']
    if version >= 2:
        lines.append(f'"System-Identifier": {int(head.system_identifier)},')
    lines.append('"Files": [')
    lines.append(",\n".join(map(_file, files)))
    lines.append("],")
    lines.append('"WAL-Ranges": [')
    lines.append(
        f'{{ "Timeline": {head.timeline}, "Start-LSN": "{head.start_lsn}", '
        f'"End-LSN": "{head.stop_lsn}" }}'
    )
    lines.append("],\n")
    body = "\n".join(lines).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body + f'"Manifest-Checksum": "{digest}"}}\n'.encode()


def _file(file: ManifestFile) -> str:
    raw = file.path.encode("utf-8", "surrogateescape")
    try:
        path = f'"Path": {json.dumps(raw.decode(), ensure_ascii=False)}'
    except UnicodeDecodeError:
        path = f'"Encoded-Path": "{raw.hex()}"'
    modified = datetime.fromtimestamp(file.modified_us // 1_000_000, UTC)
    return (
        f'{{ {path}, "Size": {file.size_bytes}, '
        f'"Last-Modified": "{modified:%Y-%m-%d %H:%M:%S} GMT", '
        f'"Checksum-Algorithm": "CRC32C", "Checksum": "{struct.pack("<I", file.checksum).hex()}" }}'
    )
