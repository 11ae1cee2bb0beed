"""Backups of any directory one after the other, without a server: each with the parents that the
real one would choose. What a server would say is made up."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pgkeep.backup.attempt import Attempt, BackupOptions
from pgkeep.backup.choosing import Wanted, choose_parents
from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.copy import Copier, CopyFormat
from pgkeep.backup.hash_cache import HashWriter
from pgkeep.backup.mapping import MapCollector
from pgkeep.backup.packing import PackStream
from pgkeep.backup.parents import Parents
from pgkeep.backup.skipping import current_boot_id
from pgkeep.backup.unfinished import PartialManifests
from pgkeep.progress import Silent
from pgkeep.repository.manifest import Head, ManifestBuilder
from pgkeep.repository.map_rows import PackKey
from pgkeep.seal.keyring import PageHashKey
from tests.backup.format_reader import ReadBackup
from tests.backup.scratch import PAGE, START_LSN, STOP_LSN, Scratch
from tests.repository.kit import HEAD, LAYOUT

RELATION = "base/5/16384"


@dataclass
class Chain(Scratch):
    """``settled`` lets files look old enough to be skipped when nothing about them changed."""

    settled: bool = False
    read_all_every: int = 1_000_000
    page_size: int = PAGE
    made: list[str] = field(default_factory=list)
    progress: Silent = field(default_factory=Silent)
    unread: list[str] = field(default_factory=list)
    boot: dict[str, Any] | None = None

    @property
    def cache(self) -> Path:
        path = self.root / "cache"
        path.mkdir(exist_ok=True)
        return path

    def run(
        self, *, full: bool = False, use_cache: bool = True, break_off_after: int | None = None
    ) -> ReadBackup:
        """One backup. With ``break_off_after`` it publishes a partial manifest once that many
        files are done, and raises ``BrokenOff``."""
        attempt = os.urandom(16).hex()
        cache = self.cache if use_cache else None
        wanted = Wanted(
            self.page_size,
            datetime.now(UTC),
            frozenset(),
            full,
            self.read_all_every,
            cache,
        )
        parents, key = choose_parents(self.repository, LAYOUT, wanted, progress=self.progress)
        with parents:
            return self._run(attempt, parents, key, cache, break_off_after)

    def _run(
        self,
        attempt: str,
        parents: Parents,
        key: PageHashKey,
        cache: Path | None,
        break_off_after: int | None,
    ) -> ReadBackup:
        manifest = ManifestBuilder()
        stream = PackStream(
            self.repository,
            LAYOUT,
            attempt,
            writers=self.jobs,
            page_size=self.page_size,
            hash_key=key,
            level=self.level,
        )
        identity = self.repository.keyring.repository_id.hex()
        hashes = HashWriter(cache, attempt, repository_id=identity, key=key)
        collector = MapCollector(stream, manifest, page_size=self.page_size, keep_blocks=True)
        copier = Copier(
            stream,
            CopyFormat(
                self.page_size, key.key, self.checksums, (1 << 30) // self.page_size, START_LSN
            ),
            jobs=self.jobs,
            rate=self.rate,
            listener=self.listener,
            parents=parents if parents.parents else None,
        )
        boot = self.boot or {
            "boot_id": current_boot_id(),
            "start_us": time.time_ns() // 1000 + (120_000_000 if self.settled else 0),
        }
        unread, files = parents.divide(self.walk().files)
        collector.keep(unread)
        for reader in {one.hashes for one in unread}:
            hashes.adopt(reader, [one.file.path for one in unread if one.hashes is reader])
        head = replace(
            HEAD,
            attempt=attempt,
            kind="incremental" if parents.base else "full",
            parent=parents.base,
            page_size=self.page_size,
        )

        def done(copied: CopiedFile) -> None:
            hashes.add(copied.file.path, copied.hashes)
            collector.add(copied)

        try:
            if break_off_after is not None:
                copier.copy(files[:break_off_after], done=done, keepalive=lambda: None)
                self._leave(attempt, key, head, (stream, collector, parents, hashes), boot)
            copier.copy(files, done=done, keepalive=self.keepalive)
            collector.finish(start_lsn=START_LSN, stop_lsn=STOP_LSN)
            own = stream.close()
        except BaseException:
            stream.abort()
            raise
        named = collector.named.union(*(parents.usage[path].packs for path in collector.kept))
        mine = {(pack.attempt, pack.number) for pack in own}
        for info in (*own, *parents.pack_infos(sorted(named - mine))):
            manifest.add_pack(info)
        manifest.add_fact("boot", boot)
        manifest.add_fact("hash", {"kind": key.kind, "shown": key.shown.hex()})
        manifest.add_fact("reading", {"since_whole": parents.since_whole_read})
        hashes.save()
        hashes.keep_only({attempt})
        self.unread = collector.unread
        return self._publish_as(manifest, head)

    def _leave(
        self,
        attempt: str,
        key: PageHashKey,
        head: Head,
        parts: tuple[PackStream, MapCollector, Parents, HashWriter],
        boot: dict[str, Any],
    ) -> None:
        """Break off, as a run that was killed just after a partial manifest."""
        stream, collector, parents, hashes = parts
        work = Attempt(
            self.repository,
            LAYOUT,
            BackupOptions("main", 1, 1, "test"),
            self.progress,
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            key,
            id=attempt,
            boot=boot,
        )
        partial = PartialManifests(
            work, stream, collector, parents=parents, cache=hashes, head=head
        )
        blocks = collector.take_blocks()
        stream.close()  # everything that was handed over is stored
        collector.take_blocks = lambda: blocks  # type: ignore[method-assign]
        partial.publish()
        partial.close()
        hashes.close()
        raise BrokenOff

    def _publish_as(self, manifest: ManifestBuilder, head: Head) -> ReadBackup:
        files, size, failed = manifest.totals()
        moment = datetime(2026, 11, 20, 12, tzinfo=UTC) + timedelta(minutes=len(self.made))
        at = f"{moment:%Y-%m-%dT%H:%M:%S.000000Z}"
        head = replace(
            head,
            backup=f"{moment:%Y%m%dT%H%M%SZ}",
            started=at,
            ended=at,
            files=files,
            database_bytes=size,
            failed_pages=failed,
            stored_bytes=manifest.stored_bytes,
            added_bytes=manifest.stored_by(head.attempt),
        )
        data = manifest.build(self.repository.keyring, head)
        store = self.repository.store
        store.put(LAYOUT.manifest(head.backup), data)
        store.put(LAYOUT.manifest_copy(head.backup), data)
        self.made.append(head.backup)
        return self.read(head.backup)

    def read(self, backup: str) -> ReadBackup:
        """A backup as a stranger would read it."""
        return ReadBackup(self.repository.store, LAYOUT.root, backup, identity=self.identity)

    def content(self) -> dict[str, bytes]:
        """What lies in the data directory now."""
        return {
            str(path.relative_to(self.data)): path.read_bytes()
            for path in self.data.rglob("*")
            if path.is_file()
        }


class BrokenOff(Exception):
    """A backup that was stopped on purpose."""


def restored(backup: ReadBackup) -> dict[str, bytes]:
    """Every file of a backup."""
    return {path: backup.content(path) for path in backup.files}


def reading_cost(backup: ReadBackup) -> tuple[int, int, set[PackKey]]:
    """(pages that the named frames hold, pages that are taken from them, packs named)."""
    held = live = 0
    packs: set[PackKey] = set()
    for file in backup.files.values():
        held += sum(-(-frame[4] // file.page_size) for frame in file.frames)
        live += sum(extent[1] for extent in file.extents if extent[2] != 0xFFFFFFFF)
        used = [file.packs[frame[0]] for frame in file.frames]
        packs |= {(attempt.hex(), number) for attempt, number in used}
    return held, live, packs


def pages_stored(chain: Chain, attempt: str) -> int:
    """How many pages lie in the packs of an attempt."""
    backup = chain.read(chain.made[-1])
    held = {
        (file.packs[frame[0]], frame[1]): -(-frame[4] // PAGE)
        for file in backup.files.values()
        for frame in file.frames
        if file.packs[frame[0]][0].hex() == attempt
    }
    return sum(held.values())


def stored_by_last(chain: Chain) -> int:
    return pages_stored(chain, chain.read(chain.made[-1]).head["attempt"])


def change(path: Path, pages: list[int]) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(os.urandom(PAGE))
