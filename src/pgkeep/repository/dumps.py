"""Dumps in the repository: one folder each, which is a dump if and only if it has its contents.

A run first claims its name by creating ``begun``, so that two runs of one second never write into
one folder. Files follow, then ``contents``, create-only. To delete is to take ``contents`` away
first: what is left then, or was left by a run that died, is litter, and goes with a later expiry.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pgkeep.errors import (
    DamagedObject,
    FormatTooNew,
    NoSuchDump,
    ObjectExists,
    ObjectNotFound,
    PgkeepError,
    WrongIdentity,
)
from pgkeep.repository.dump_record import Contents, parse_contents
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record
from pgkeep.repository.sealed_record import build_sealed_record, parse_sealed_record
from pgkeep.storage.fallback import read_sound
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.together import each

BEGUN, CONTENTS = "begun", "contents"
LITTER_LIFE = timedelta(hours=72)
"""For so long a folder without contents may belong to a run that lives, by the store's clock."""
_CLAIMS = 100
_ROUNDS = 3


class DumpProblem(NamedTuple):
    """A dump that exists and cannot be read, and why."""

    dump: str
    error: PgkeepError


class StoredDump(NamedTuple):
    """A dump that exists. ``stored`` is the store's clock when its contents were created."""

    contents: Contents
    stored: datetime

    @property
    def id(self) -> str:
        return self.contents.dump


class Dumps(NamedTuple):
    """All dumps that exist, oldest first: the readable, and what is wrong with the others.
    ``litter`` are folders without contents, each with its objects; ``leftovers`` objects in a
    dump's folder that its contents do not name: of attempts that failed."""

    dumps: tuple[StoredDump, ...]
    problems: tuple[DumpProblem, ...]
    litter: Mapping[str, tuple[ObjectInfo, ...]]
    leftovers: Mapping[str, tuple[ObjectInfo, ...]]


def claim(
    repository: Repository, layout: Layout, began: datetime, *, at: str, by: Mapping[str, Any]
) -> str:
    """A name of our own: the UTC second at which the run began, or the next that is free."""
    for later in range(_CLAIMS):
        name = f"{began + timedelta(seconds=later):%Y%m%dT%H%M%SZ}"
        # A dump whose begun was deleted, or that a mirror brought, counts as well.
        if next(iter(repository.store.list(layout.dump(name))), None) is not None:
            continue
        record = build_record("dump", {"dump": name}, at=at, by=dict(by))
        try:
            repository.store.put(layout.dump(name) + BEGUN, record, if_absent=True)
        except ObjectExists:
            continue
        return name
    raise NoSuchDump(
        "No name for the dump was free.", remedy="See which other processes make dumps here."
    )


def publish(
    repository: Repository, layout: Layout, contents: Contents, *, by: Mapping[str, Any]
) -> None:
    """Let the dump exist. Raises ``ObjectExists``, and what the store raises."""
    key = layout.dump(contents.dump) + CONTENTS
    record = build_sealed_record(
        repository.keyring, key, contents.members(), at=contents.ended, by=dict(by)
    )
    repository.store.put(key, record, if_absent=True)


def read_dumps(repository: Repository, layout: Layout) -> Dumps:
    """Everything under ``dumps/``. Raises ``IdentityNeeded`` without the metadata key, and what the
    store raises."""
    folders: dict[str, list[ObjectInfo]] = {}
    for info in repository.store.list(layout.dumps):
        name, slash, _ = info.key[len(layout.dumps) :].partition("/")
        if slash:
            folders.setdefault(name, []).append(info)
    heads = {
        name: info
        for name, infos in folders.items()
        for info in infos
        if info.key == layout.dump(name) + CONTENTS
    }

    def load(name: str) -> StoredDump | DumpProblem | None:
        try:
            return StoredDump(_read(repository, layout, name), heads[name].modified)
        except (DamagedObject, FormatTooNew, WrongIdentity) as error:
            return DumpProblem(name, error)
        except ObjectNotFound:
            return None  # it was deleted between the listing and now

    loaded = each(load, sorted(heads))
    dumps = tuple(one for one in loaded if isinstance(one, StoredDump))
    unnamed = {one.id: _unnamed(layout, one, folders[one.id]) for one in dumps}
    return Dumps(
        dumps,
        tuple(one for one in loaded if isinstance(one, DumpProblem)),
        {name: tuple(infos) for name, infos in folders.items() if name not in heads},
        {name: infos for name, infos in unnamed.items() if infos},
    )


def _unnamed(
    layout: Layout, dump: StoredDump, infos: Iterable[ObjectInfo]
) -> tuple[ObjectInfo, ...]:
    """What was there before the contents, and they do not name it."""
    named = {part.name for file in dump.contents.files for part in file.parts}
    keys = {layout.dump(dump.id) + name for name in (BEGUN, CONTENTS, *named)}
    return tuple(one for one in infos if one.key not in keys and one.modified <= dump.stored)


def find_dump(dumps: Dumps, name: str) -> StoredDump:
    """A dump by its name, an unmistakable beginning of it, or ``latest``. Raises ``NoSuchDump``,
    and what is wrong with the one that is named."""
    found = [one for one in dumps.dumps if one.id.startswith(name)]
    if name == "latest":
        newest = max(
            (*(one.id for one in dumps.dumps), *(p.dump for p in dumps.problems)), default=""
        )
        broken = [one for one in dumps.problems if one.dump == newest]
        if broken:
            raise broken[0].error
        found = list(dumps.dumps[-1:])
    if len(found) == 1:
        return found[0]
    unreadable = [one for one in dumps.problems if one.dump.startswith(name)]
    if not found and len(unreadable) == 1:
        raise unreadable[0].error
    shown = ", ".join(one.id for one in (found or dumps.dumps)[-5:]) or "none"
    raise NoSuchDump(
        f"{name!r} is the beginning of {len(found)} dumps."
        if found
        else f"There is no dump {name!r}.",
        why=f"The newest that there are: {shown}.",
        remedy="pgkeep dump list shows all.",
    )


def delete_dumps(store: Store, layout: Layout, names: Iterable[str]) -> None:
    """Delete dumps, each one's contents first, so that none exists in part. Raises what the store
    says of the first object that it did not delete."""
    for name in names:
        folder = layout.dump(name)
        last = folder + CONTENTS
        # A copy that runs meanwhile may bring the contents back, having seen parts that are gone by
        # then: so it is done again until nothing is left.
        for _ in range(_ROUNDS):
            there = [info.key for info in store.list(folder)]
            if not there:
                break
            _delete(store, [key for key in there if key == last])
            _delete(store, [key for key in there if key != last])


def delete_litter(
    store: Store, layout: Layout, litter: Mapping[str, Collection[ObjectInfo]]
) -> None:
    """Delete folders that had no contents. Raises as :func:`delete_dumps`."""
    for name, infos in litter.items():
        last = layout.dump(name) + CONTENTS
        if store.exists(last):
            continue  # a copy has made it whole by now
        _delete(store, [info.key for info in infos])
        if store.exists(last):  # a copy has counted on what is gone; the next one brings it
            delete_dumps(store, layout, [name])


def delete_leftovers(store: Store, leftovers: Mapping[str, Collection[ObjectInfo]]) -> None:
    """Delete what lies in dumps' folders and belongs to none. Raises as :func:`delete_dumps`."""
    _delete(store, [info.key for infos in leftovers.values() for info in infos])


def _delete(store: Store, keys: list[str]) -> None:
    for problem in store.delete(keys).values() if keys else ():
        if problem is not None:
            raise problem


def _read(repository: Repository, layout: Layout, name: str) -> Contents:
    key = layout.dump(name) + CONTENTS

    def read(store: Store) -> Contents:
        return parse_contents(parse_sealed_record(store.get(key), key, repository.keyring), key)

    return read_sound(repository.store, key, read)
