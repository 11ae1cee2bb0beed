"""Dumps that nobody made, in two places of one repository, in memory: for what is done with dumps
whatever they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from blake3 import blake3

from pgkeep.repository.dump_record import DATABASE, Contents, DumpFile, Part
from pgkeep.repository.dumps import publish
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import ObjectInfo
from pgkeep.storage.memory import MemoryStore
from pgkeep.units import to_utc_text
from tests.dump.kit import BY, repository_in

CONTENTS = Contents(
    *("d", "main", "1", "", "", 1.0, "PostgreSQL 18.4", 18, "18.4"),
    *("host", "postgres", "", "0", "server"),
)
LAYOUT = Layout("main", 1)
NOW = datetime.now(UTC)
PARTS = {f"postgres.dump.0000{n}": f"part {n}".encode() for n in (1, 2, 3)}


class PlacedStore(MemoryStore):
    """Its clock is set by hand, and it calls ``before`` with each method and key."""

    def __init__(self) -> None:
        self.now = NOW
        super().__init__(clock=lambda: self.now)
        self.before: Callable[[str, str], object] = lambda method, key: None

    def get(self, key: str) -> bytes:
        self.before("get", key)
        return super().get(key)

    def put(self, key: str, *rest: Any, **more: Any) -> str:
        self.before("put", key)
        return super().put(key, *rest, **more)

    def list(self, prefix: str = "", *rest: Any, **more: Any) -> Iterator[ObjectInfo]:
        self.before("list", prefix)
        return super().list(prefix, *rest, **more)

    def delete(self, keys: Any) -> Any:
        keys = list(keys)
        for key in keys:
            self.before("delete", key)
        return super().delete(keys)


def two() -> tuple[Repository, Repository]:
    """Two places of one repository."""
    one = repository_in(PlacedStore(), None)
    other = one._replace(store=PlacedStore())
    return one, other


def place(repository: Repository) -> PlacedStore:
    assert isinstance(repository.store, PlacedStore)
    return repository.store


def put(days: float, *repositories: Repository, kind: str = DATABASE) -> str:
    """A dump that ended and was stored so many days ago."""
    ended = NOW - timedelta(days=days)
    name = f"{ended:%Y%m%dT%H%M%SZ}"
    parts = tuple(Part(key, len(data), blake3(data).hexdigest()) for key, data in PARTS.items())
    file = DumpFile("postgres.dump", kind, 1, parts, "postgres", "custom", "none")
    contents = replace(
        CONTENTS, dump=name, started=to_utc_text(ended), ended=to_utc_text(ended), files=(file,)
    )
    for one in repositories:
        place(one).now = ended
        one.store.put(LAYOUT.dump(name) + "begun", b"begun")
        for key, data in PARTS.items():
            one.store.put(LAYOUT.dump(name) + key, data)
        publish(one, LAYOUT, contents, by=BY)
        place(one).now = NOW
    return name
