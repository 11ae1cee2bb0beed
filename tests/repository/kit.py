"""Repositories in memory for tests, and small ways to put things into them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pgkeep.postgres.wal_name import segment_name
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
from pgkeep.repository.pack import PackInfo
from pgkeep.repository.wal import build_wal_object
from pgkeep.seal import age
from pgkeep.storage.interface import Store
from pgkeep.storage.memory import MemoryStore

AT = "2026-11-20T12:00:00.000000Z"
BY = {"host": "test", "pid": 1, "version": "0"}
SEGMENT = 1 << 20
SYSTEM = 7710300270422693827
LAYOUT = Layout("main", SYSTEM)

HEAD = Head(
    backup="20261120T120000Z",
    attempt="00" * 16,
    cluster="main",
    system_identifier=str(SYSTEM),
    kind="full",
    parent=None,
    started=AT,
    ended=AT,
    start_lsn="0/300028",
    stop_lsn="0/300100",
    timeline=1,
    wal_segment_size=SEGMENT,
    page_size=8192,
    checksums=True,
    postgres="PostgreSQL 18.4",
    postgres_major=18,
    files=0,
    database_bytes=0,
    added_bytes=0,
    stored_bytes=0,
    failed_pages=0,
    from_standby=False,
    host="test",
    level=1,
    note="",
    copy_seconds=0.0,
    total_seconds=0.0,
    pgkeep="0",
)


def make_repository(
    folder: Path, *, sealed: bool = False, store: Store | None = None
) -> tuple[Repository, str]:
    """A repository and the identity text that opens it (empty when it is not sealed)."""
    store = store or MemoryStore()
    identity, public = age.generate_identity()
    create_repository(store, make_key_set([public], None) if sealed else None, at=AT, by=BY)
    unlock = Unlock([identity]) if sealed else Unlock()
    opened = open_repository(store, HostState(folder / "state"), unlock=unlock)
    return opened, identity if sealed else ""


def put_segment(
    repository: Repository,
    timeline: int,
    segno: int,
    *,
    modified: str = AT,
    layout: Layout = LAYOUT,
) -> str:
    """Store a segment of random content; returns its name."""
    name = segment_name(timeline, segno, SEGMENT)
    put_wal(repository, name, os.urandom(64), kind="segment", modified=modified, layout=layout)
    return name


def put_history(repository: Repository, timeline: int, content: bytes) -> None:
    put_wal(repository, f"{timeline:08X}.history", content, kind="history")


def put_wal(
    repository: Repository,
    name: str,
    content: bytes,
    *,
    kind: str,
    modified: str = AT,
    layout: Layout = LAYOUT,
) -> None:
    data = build_wal_object(
        repository.keyring,
        content,
        name=name,
        kind=kind,
        modified=modified,
        pushed=AT,
        host="test",
    )
    repository.store.put(layout.wal_file(name), data, if_absent=True)


def put_backup(
    repository: Repository,
    head: Head,
    *,
    copies: str = "both",
    packs: Mapping[tuple[str, int], int] | None = None,
) -> None:
    """Store the manifest(s) of a backup without files; ``packs`` are (attempt, number): size."""
    builder = ManifestBuilder()
    for (attempt, number), size in (packs or {}).items():
        builder.add_pack(PackInfo(attempt, number, size, bytes(32), bytes(16), b"", b""))
    data = builder.build(repository.keyring, head)
    builder.close()
    if copies in ("both", "first"):
        repository.store.put(LAYOUT.manifest(head.backup), data)
    if copies in ("both", "second"):
        repository.store.put(LAYOUT.manifest_copy(head.backup), data)


def head(backup: str, start: str, stop: str, **changes: object) -> Head:
    return replace(HEAD, backup=backup, start_lsn=start, stop_lsn=stop, **changes)  # type: ignore[arg-type]
