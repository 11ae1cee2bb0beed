"""One attempt at a backup: what was asked for, and what is known so far."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgkeep import __version__
from pgkeep.backup.prepare import DataDirectory
from pgkeep.postgres.facts import ServerFacts
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.lease import LEASE_SECONDS
from pgkeep.repository.manifest import ManifestBuilder
from pgkeep.seal.keyring import PageHashKey


@dataclass(frozen=True)
class BackupOptions:
    """How a backup is to be made. ``rate_limit`` in bytes a second, ``archive_timeout`` in
    seconds; ``lease_seconds`` is how long another backup waits for a sign of life of this one.
    ``primary`` is a connection string for the primary of a standby.

    ``cache`` is the folder where page hashes are kept from one backup to the next; without one they
    are read again from the repository. Every ``read_all_every``-th backup reads all files.
    """

    cluster: str
    jobs: int
    level: int
    host: str
    pgdata: str | None = None
    primary: str | None = None
    rate_limit: int | None = None
    archive_timeout: float = 60.0
    force_version: str | None = None
    full: bool = False
    read_all_every: int = 7
    cache: Path | None = None
    partial_seconds: float = 60.0
    spread_checkpoint: bool = False
    low_priority: bool = True
    note: str = ""
    lease_seconds: float = LEASE_SECONDS


@dataclass
class Attempt:
    """A run of ``pgkeep backup``. ``id`` is random, and names its packs."""

    repository: Repository
    layout: Layout
    options: BackupOptions
    progress: Progress
    facts: ServerFacts
    directory: DataDirectory
    hash_key: PageHashKey
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    began: float = field(default_factory=time.monotonic)
    manifest: ManifestBuilder = field(default_factory=ManifestBuilder)
    parent: str | None = None
    boot: dict[str, Any] = field(default_factory=dict)
    copy_seconds: float = 0.0

    @property
    def cache(self) -> Path | None:
        """Where the page hashes of this cluster's system are kept; None if nowhere."""
        if self.options.cache is None or not self.repository.keyring.can_read_metadata:
            return None
        folder = self.options.cache / str(self.layout.system_identifier)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return None
        return folder

    @property
    def file_mode(self) -> int:
        """What the server gives its files: its group may read them if it may read PG_VERSION."""
        return 0o600 | (self.directory.path / "PG_VERSION").stat().st_mode & 0o040

    def by(self) -> Mapping[str, Any]:
        """Who writes, for records."""
        return {"host": self.options.host, "pid": os.getpid(), "version": __version__}
