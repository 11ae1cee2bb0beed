"""A backup of any directory, without a server: the walk, the copy and the maps.

What a server would say is made up, so the parts that read files can be tested with files that
no server would write, and that change at a known moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pgkeep.backup.copy import Copier, CopyFormat, Listener
from pgkeep.backup.mapping import MapCollector
from pgkeep.backup.packing import PackStream
from pgkeep.backup.source import Source, SourceFile, walk_data_directory
from pgkeep.backup.throttle import RateLimit
from pgkeep.postgres.lsn import Lsn
from pgkeep.repository.identity import Repository
from pgkeep.repository.manifest import ManifestBuilder
from pgkeep.storage.interface import Store
from tests.backup.format_reader import ReadBackup
from tests.repository.kit import HEAD, LAYOUT, make_repository

PAGE = 8192
RUN = 1 << 20
START_LSN, STOP_LSN = Lsn(0x300028), Lsn(0x300100)
ATTEMPT = "ab" * 16


class Hook:
    """A listener that calls a function for each piece that was copied."""

    def __init__(self, call: Callable[[int], object] = lambda number: None) -> None:
        self.copied, self._call, self._calls = 0, call, 0

    def advance(self, size_bytes: int) -> None:
        self.copied += size_bytes
        self._calls += 1
        self._call(self._calls)


@dataclass
class Scratch:
    """Where such a backup goes, and how it is made."""

    root: Path
    sealed: bool = False
    store: Store | None = None
    jobs: int = 2
    level: int = 1
    checksums: bool = True
    rate: RateLimit = field(default_factory=lambda: RateLimit(None))
    listener: Listener = field(default_factory=Hook)
    keepalive: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.repository: Repository
        self.repository, self.identity = make_repository(
            self.root, sealed=self.sealed, store=self.store
        )

    @property
    def data(self) -> Path:
        """The data directory."""
        path = self.root / "data"
        path.mkdir(exist_ok=True)
        return path

    def write(self, name: str, content: bytes) -> Path:
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def walk(self, **options: Any) -> Source:
        return walk_data_directory(self.data, major=18, catalog_version=1, **options)

    def stream(self) -> PackStream:
        return PackStream(
            self.repository,
            LAYOUT,
            ATTEMPT,
            writers=self.jobs,
            page_size=PAGE,
            hash_key=self.repository.keyring.page_hash_key(),
            level=self.level,
        )

    def copy(self, files: Sequence[SourceFile] | None = None) -> ReadBackup:
        """Copy the files (all of them), publish a manifest, and read it again."""
        stream, manifest = self.stream(), ManifestBuilder()
        collector = MapCollector(stream, manifest, page_size=PAGE)
        key = self.repository.keyring.page_hash_key().key
        copier = Copier(
            stream,
            CopyFormat(PAGE, key, self.checksums, (1 << 30) // PAGE, START_LSN),
            jobs=self.jobs,
            rate=self.rate,
            listener=self.listener,
        )
        try:
            copier.copy(
                self.walk().files if files is None else files,
                done=collector.add,
                keepalive=self.keepalive,
            )
            collector.finish(start_lsn=START_LSN, stop_lsn=STOP_LSN)
            for pack in stream.close():
                manifest.add_pack(pack)
        except BaseException:
            stream.abort()
            raise
        return self._publish(manifest)

    def _publish(self, manifest: ManifestBuilder) -> ReadBackup:
        files, size, failed = manifest.totals()
        head = replace(HEAD, files=files, database_bytes=size, failed_pages=failed)
        data = manifest.build(self.repository.keyring, head)
        store = self.repository.store
        store.put(LAYOUT.manifest(head.backup), data)
        store.put(LAYOUT.manifest_copy(head.backup), data)
        return ReadBackup(store, LAYOUT.root, head.backup, identity=self.identity)
