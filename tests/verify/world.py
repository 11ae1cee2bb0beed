"""A repository that has an object of each kind, and what can happen to an object."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgkeep.progress import Silent
from pgkeep.repository.catalogue import load_manifest
from pgkeep.repository.check_records import record_check
from pgkeep.repository.checks import SCRUB, Check
from pgkeep.repository.layout import numbered
from pgkeep.repository.record import build_record
from pgkeep.repository.system import register_system
from pgkeep.repository.wal import open_wal_object
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.resolve import resolve
from pgkeep.restore.target import immediate
from pgkeep.storage.memory import MemoryStore
from tests.backup.chain import RELATION, BrokenOff
from tests.repository.kit import AT, BY, LAYOUT, SYSTEM, put_history, put_segment, put_wal
from tests.restore.layers import Landing
from tests.verify.kit import Checked, sound_pages

PIN = "cd" * 16


SEGMENTS = ("000000010000000000000003",)
"""The WAL that a backup needs to become consistent."""


@dataclass
class World:
    """Its chain of backups, and for each backup what the data directory held."""

    chain: Checked
    contents: dict[str, dict[str, bytes]]

    @property
    def store(self) -> MemoryStore:
        store = self.chain.repository.store
        assert isinstance(store, MemoryStore)
        return store

    def keys(self, kind: str) -> list[str]:
        """The objects of a kind, in order."""
        return [info.key for info in self.store.list(f"{LAYOUT.root}{kind}/")]

    def copy(self) -> World:
        """The same, to be damaged."""
        store = MemoryStore()
        for info in self.store.list():
            store.put(info.key, self.store.get(info.key))
        chain = object.__new__(Checked)
        chain.__dict__.update(self.chain.__dict__)
        chain.repository = self.chain.repository._replace(store=store)
        chain.made = [*self.chain.made]
        return World(chain, self.contents)

    def restore(self, backup: str, into: Path) -> tuple[dict[str, bytes], list[bytes]]:
        """Files, and the WAL that makes them consistent, as a restore gets them."""
        repository = self.chain.repository
        options = RestoreOptions(into, target=immediate(), backup=backup)
        found = resolve(repository, LAYOUT, options, progress=Silent())
        manifest = load_manifest(repository, LAYOUT, found.backup)
        try:
            landing = Landing(repository, manifest, into)
            landing.run(jobs=2)
            paths = [file.path for file in landing.files]
        finally:
            manifest.close()
        wal = []
        for name in SEGMENTS:
            assert found.wal.names(name)
            key = LAYOUT.wal_file(name)
            _, frames = open_wal_object(repository.store.get(key), key, repository.keyring)
            wal.append(b"".join(frames))
        return {path: (into / path).read_bytes() for path in paths}, wal


def make_world(root: Path, *, sealed: bool) -> World:
    """Three backups, of which one stores only what changed, one that was broken off, WAL of two
    timelines, and a record of each kind."""
    chain = Checked(root, sealed=sealed)
    repository = chain.repository
    register_system(
        repository.store, "main", SYSTEM, postgres_major=18, new_system=False, at=AT, by=BY
    )
    contents: dict[str, dict[str, bytes]] = {}
    for number in range(3):
        chain.write(RELATION, sound_pages(150) + sound_pages(20, first=150, seed=1000 * number))
        chain.write(f"base/5/{16390 + number}", sound_pages(40, seed=number))
        chain.run()
        contents[chain.made[-1]] = chain.content()
    chain.write("base/5/17000", sound_pages(60, seed=5))
    for done in (4, 3):
        with suppress(BrokenOff):
            chain.run(break_off_after=done)
    (chain.data / "base/5/17000").unlink()
    for segno in (4, 5, 6):
        put_segment(repository, 1, segno)
    for segno in (6, 7):
        put_segment(repository, 2, segno)
        put_segment(repository, 3, segno + 2)
    put_history(repository, 2, b"1\t0/600000\tno recovery target specified\n")
    put_history(repository, 3, b"2\t0/800000\tno recovery target specified\n")
    for timeline in ("00000001", "00000002"):
        name = f"{timeline}0000000000000007.partial"
        put_wal(repository, name, b"p" * 100, kind="partial")
        name = f"{timeline}0000000000000003.00000028.backup"
        put_wal(repository, name, b"START WAL LOCATION: 0/300028\n".ljust(80), kind="backup")
    for kind, key, members in (
        ("pin", LAYOUT.pin(PIN, 1), {"attempt": PIN, "purpose": "backup", "backup": None}),
        ("pin", LAYOUT.pin(PIN, 2), {"attempt": PIN, "purpose": "backup", "backup": None}),
        ("void", LAYOUT.void("20261119T000000Z"), {"backup": "20261119T000000Z", "reason": "x"}),
        ("mark", numbered(LAYOUT.marks, 1), {"kind": "note", "backup": None, "text": "x"}),
        ("hold", numbered(LAYOUT.admin("hold"), 1), {"backup": "x", "reason": "", "until": None}),
    ):
        repository.store.put(key, build_record(kind, members, at=AT, by=BY))
    for _ in range(2):
        record_check(repository, LAYOUT, Check(SCRUB, AT, round_began=AT), by=BY)
    return World(chain, contents)


def damage(world: World, key: str, how: str, *, chance: random.Random) -> set[str] | None:
    """Let it happen; the keys of what is another object now, None where it cannot happen."""
    store = world.store
    data = store.get(key)
    if how == "flipped":
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        store.put(key, bytes(changed))
    elif how == "truncated":
        store.put(key, data[: chance.randrange(len(data))])
    elif how == "missing":
        store.delete([key])
    else:
        others = [one for one in world.keys(kind_of(key)) if store.get(one) != data]
        if how == "replayed":
            others = [one for one in others if one < key]
        if not others:
            return None
        other = chance.choice(others)
        store.put(key, store.get(other))
        if how == "swapped":
            store.put(other, data)
            return {key, other}
    return {key}


def kind_of(key: str) -> str:
    """The folder that an object lies in."""
    return key[len(LAYOUT.root) :].partition("/")[0]
