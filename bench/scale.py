"""A cluster of 10 TB that does not exist: what its manifests and maps cost.

``python -m bench.scale`` makes up the maps of 10,240 files of 1 GiB and 200,000 small ones, stores
them with a manifest as a full backup does, then those of a successor in which 1 % of all pages
changed, at random places. No page is read or written; what is measured is the metadata: time,
memory, bytes. Then a process of its own plans a restore of the successor. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pgkeep.backup.choosing import Wanted, choose_parents
from pgkeep.backup.copied import CopiedFile
from pgkeep.backup.hash_cache import HashWriter
from pgkeep.backup.mapping import MapCollector
from pgkeep.backup.packing import PackStream
from pgkeep.backup.source import SourceFile
from pgkeep.progress import Silent
from pgkeep.repository.catalogue import list_backups, load_manifest
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import (
    Repository,
    Unlock,
    create_repository,
    make_key_set,
    open_repository,
)
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import Head, ManifestBuilder
from pgkeep.repository.map import Extent, FrameAddress
from pgkeep.repository.map_rows import MapRows, overlay
from pgkeep.repository.pack import PACK_BYTES, PackInfo
from pgkeep.seal import age
from pgkeep.storage.local import LocalStore

AT = "2026-11-20T12:00:00.000000Z"
BY = {"host": "bench", "pid": 1, "version": "0"}
PAGE, GIB_PAGES, FRAME_PAGES = 8192, 131072, 128
LAYOUT = Layout("main", 7710300270422693827)
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--large", type=int, default=10_240, help="files of 1 GiB")
    parser.add_argument("--small", type=int, default=200_000, help="files of 64 KiB")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--survey", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--identity", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        return plan(options.plan, options.identity)
    if options.survey:
        return survey(options.survey, options.identity)
    with tempfile.TemporaryDirectory(prefix="pgkeep-scale-") as folder:
        run(Path(folder), large=options.large, small=options.small)
    return 0


def run(folder: Path, *, large: int, small: int) -> None:
    """Both backups and the plan of a restore."""
    store = LocalStore(folder / "repo", create=True)
    identity, public = age.generate_identity()
    create_repository(store, make_key_set([public], None), at=AT, by=BY)
    state = HostState(folder / "state")
    repository = open_repository(store, state, unlock=Unlock([identity]))
    simulation = Simulation(repository, folder / "repo", large=large, small=small)
    full = simulation.backup("20261120T120000Z", None)
    successor = simulation.backup("20261121T120000Z", "20261120T120000Z")
    result: dict[str, Any] = {"full": full, "successor": successor}
    for part in ("survey", "plan"):
        command = [sys.executable, "-m", "bench.scale", f"--{part}", str(folder)]
        command += ["--identity", identity]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result[part] = json.loads(done.stdout)
    result["successor adds"] = f"{successor['metadata_bytes'] / full['metadata_bytes']:.1%}"
    print(json.dumps(result, indent=2))


class Simulation:
    """Makes up maps, and has them stored as a backup has."""

    def __init__(self, repository: Repository, place: Path, *, large: int, small: int) -> None:
        self._repository, self._large, self._small = repository, large, small
        self._place = place
        self._chance = np.random.default_rng(1)
        self._maps: dict[str, MapRows] = {}
        self._packs: dict[tuple[str, int], PackInfo] = {}

    def backup(self, name: str, parent: str | None) -> dict[str, Any]:
        """One backup; what it took and how many bytes of metadata it added."""
        began, cpu = time.monotonic(), time.process_time()
        attempt = os.urandom(16).hex()
        manifest = ManifestBuilder()
        keyring = self._repository.keyring
        stream = PackStream(
            self._repository,
            LAYOUT,
            attempt,
            writers=2,
            page_size=PAGE,
            hash_key=keyring.page_hash_key(),
            level=1,
        )
        collector = MapCollector(stream, manifest, page_size=PAGE)
        data = _Packs(attempt)
        pages = 0
        for path, size in self._files():
            rows = self._next_map(path, size, data)
            pages += data.taken
            self._maps[path] = rows
            file = SourceFile(path, path, 0, size, 0o600, 10**15, 10**15, len(self._maps))
            collector.add(CopiedFile(file, rows))
        collector.finish(start_lsn=0, stop_lsn=0)  # type: ignore[arg-type]
        maps = stream.close()
        for number in range(1, data.number + 1):
            sealed = keyring.new_keys(data=True, metadata=True)
            info = PackInfo(
                attempt,
                number + 1_000_000,
                PACK_BYTES,
                os.urandom(32),
                os.urandom(16),
                sealed.sealed_data,
                sealed.sealed_metadata,
            )
            self._packs[attempt, info.number] = info
            self._pretend(info)
        hashed = keyring.page_hash_key()
        manifest.add_fact("hash", {"kind": hashed.kind, "shown": hashed.shown.hex()})
        made_up = time.monotonic()
        named = {pack for rows in self._maps.values() for pack in rows.packs}
        for info in (*maps, *(self._packs[pack] for pack in named)):
            manifest.add_pack(info)
        files, size, _ = manifest.totals()
        head = _head(name, parent, attempt, files=files, size=size)
        stored = manifest.build(keyring, head)
        for key in (LAYOUT.manifest(name), LAYOUT.manifest_copy(name)):
            self._repository.store.put(key, stored, if_absent=True)
        map_bytes = sum(pack.size_bytes for pack in maps)
        index_bytes = 8 * pages
        return {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "manifest_seconds": round(time.monotonic() - made_up, 1),
            "manifest_mib": round(len(stored) / MIB, 1),
            "maps_mib": round(map_bytes / MIB, 1),
            "index_mib": round(index_bytes / MIB, 1),
            "metadata_bytes": 2 * len(stored) + map_bytes + index_bytes,
            "peak_mib_of_the_simulation": _peak_mib(),
        }

    def _pretend(self, info: PackInfo) -> None:
        """A pack of holes: the next backup asks whether its parent's packs have their sizes."""
        path = self._place / info.key(LAYOUT)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as pack:
            pack.truncate(info.size_bytes)

    def _files(self) -> Iterator[tuple[str, int]]:
        for number in range(self._large):
            yield f"base/5/{16384 + number // 32}.{number % 32}", GIB_PAGES * PAGE
        for number in range(self._small):
            yield f"base/{6 + number // 1000}/{16384 + number % 1000}", 8 * PAGE

    def _next_map(self, path: str, size: int, data: _Packs) -> MapRows:
        pages = size // PAGE
        old = self._maps.get(path)
        if old is None:
            frames = [data.frame(min(FRAME_PAGES, pages)) for _ in range(-(-pages // FRAME_PAGES))]
            spans = [
                Extent(i * FRAME_PAGES, min(FRAME_PAGES, pages), i, 0) for i in range(len(frames))
            ]
            data.taken = pages
            columns = [np.zeros((rows, 0), dtype=np.int64) for rows in (5, 4)]
            empty = MapRows(path, 0, (), columns[0], columns[1], np.zeros(0, dtype=np.int64))
            return overlay(empty, frames, _columns(spans), size_bytes=size, page_size=PAGE)
        changed = np.flatnonzero(self._chance.random(pages) < 0.01)
        data.taken = len(changed)
        frames, spans = [], []
        for start in range(0, len(changed), FRAME_PAGES):
            part = changed[start : start + FRAME_PAGES].tolist()
            spans += [Extent(page, 1, len(frames), inside) for inside, page in enumerate(part)]
            frames.append(data.frame(len(part)))
        if not frames:
            return old
        return overlay(old, frames, _columns(spans), size_bytes=size, page_size=PAGE)


def _columns(extents: list[Extent]) -> Any:
    return np.array(extents, dtype=np.int64).T


class _Packs:
    """Places for frames, one after the other, compressed about 4.4 to 1."""

    def __init__(self, attempt: str) -> None:
        self._attempt = attempt
        self._chance = np.random.default_rng(2)
        self.number, self._frame, self._offset = 1, 0, 800
        self.taken = 0

    def frame(self, pages: int) -> FrameAddress:
        if self._offset >= PACK_BYTES:
            self.number, self._frame, self._offset = self.number + 1, 0, 800
        stored = int(pages * PAGE / self._chance.uniform(3.5, 5.5))
        found = FrameAddress(
            self._attempt,
            self.number + 1_000_000,
            self._frame,
            self._offset,
            stored,
            pages * PAGE,
        )
        self._frame, self._offset = self._frame + 1, self._offset + stored + 8
        return found


def survey(folder: Path, identity: str) -> int:
    """What the next backup does before it copies: its parent's manifest, and all its maps."""
    began = time.monotonic()
    repository = _open(folder, identity)
    key = repository.keyring.page_hash_key()
    attempt = list_backups(repository, LAYOUT)[-1].head.attempt
    hashes = HashWriter(
        folder, attempt, repository_id=repository.keyring.repository_id.hex(), key=key
    )
    hashes.save()
    wanted = Wanted(PAGE, datetime.now(UTC), frozenset(), False, 7, folder)
    parents, _ = choose_parents(repository, LAYOUT, wanted, progress=Silent())
    with parents:
        found = {"files": len(parents.usage), "retiring": len(parents.retiring)}
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"seconds": seconds, "peak_mib": _peak_mib(), **found}))
    return 0


def _open(folder: Path, identity: str) -> Repository:
    store = LocalStore(folder / "repo")
    return open_repository(store, HostState(folder / "state"), unlock=Unlock([identity]))


def plan(folder: Path, identity: str) -> int:
    """What a restore reads before it writes: the manifest, and what its rows say."""
    began = time.monotonic()
    repository = _open(folder, identity)
    backup = list_backups(repository, LAYOUT)[-1]
    manifest = load_manifest(repository, LAYOUT, backup)
    rows = [(row.path, row.size_bytes) for row in manifest.files()]
    total = sum(size for _, size in rows)
    packs = len(manifest.packs())
    print(
        json.dumps(
            {
                "seconds": round(time.monotonic() - began, 1),
                "peak_mib": _peak_mib(),
                "files": len(rows),
                "packs": packs,
                "tib": round(total / 2**40, 1),
            }
        )
    )
    return 0


def _peak_mib() -> int:
    # Not ru_maxrss: a process begins with what its parent's was.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def _head(name: str, parent: str | None, attempt: str, *, files: int, size: int) -> Head:
    return Head(
        backup=name,
        attempt=attempt,
        cluster=LAYOUT.cluster,
        system_identifier=str(LAYOUT.system_identifier),
        kind="incremental" if parent else "full",
        parent=parent,
        started=AT,
        ended=AT.replace("-20T", "-21T") if parent else AT,
        start_lsn="0/300028",
        stop_lsn="0/300100",
        timeline=1,
        wal_segment_size=1 << 24,
        page_size=PAGE,
        checksums=True,
        postgres="18.4",
        postgres_major=18,
        files=files,
        database_bytes=size,
        added_bytes=0,
        stored_bytes=0,
        failed_pages=0,
        from_standby=False,
        host="bench",
        level=1,
        note="",
        copy_seconds=0.0,
        total_seconds=0.0,
        pgkeep="0",
    )


if __name__ == "__main__":
    raise SystemExit(main())
