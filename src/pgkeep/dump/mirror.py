"""Giving a repository the dumps that another one has: byte for byte, each one's contents last.

Nothing is left of a dump that was deleted, so that a repository lacks one says not why. What its
policy would let go at once is not brought to it: that is what it lacks because it expired there.
A repository without any dump has let none go, and gets all.

While a dump is copied it may be deleted, on either side. Contents are the first thing that a
deletion takes: if they are there when the parts were listed already, the list is whole. And what a
deletion under way took along in the target is seen when the contents are there, and brought again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from pgkeep.config.keeping import KeepPolicy
from pgkeep.dump.expire import decide_dumps, is_superseded
from pgkeep.errors import DamagedObject, NoSuchDump, ObjectExists, ObjectNotFound, StoreError
from pgkeep.repository.dump_record import Contents
from pgkeep.repository.dumps import BEGUN, CONTENTS, StoredDump, read_dumps
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import ObjectInfo, Store

_TRIES = 3

Held = Mapping[str, StoredDump | None]
"""The dumps of one repository by name; None for what cannot be read, or not without a key."""


class CopiedDump(NamedTuple):
    """A dump that a target lacked. ``objects`` and ``bytes`` are what was copied, or would be."""

    dump: str
    objects: int
    bytes: int


@dataclass
class DumpCopies:
    """What became of one target. ``left`` are the dumps that its policy would let go at once;
    ``problems`` are (dump, why it was not copied)."""

    copied: list[CopiedDump] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def copy_dumps(
    sources: Sequence[Repository],
    target: Repository,
    layouts: Sequence[Layout],
    policy: KeepPolicy,
    *,
    dry_run: bool = False,
) -> DumpCopies:
    """Give the target every dump of these systems, the present one last, that one of the sources
    has, it lacks, and its policy keeps. Without the metadata key nothing can be judged, and all of
    them are given.

    Raises what the stores raise.
    """
    found = DumpCopies()
    ours = {layout.system_identifier: _held(target, layout) for layout in layouts}
    present = [one for one in ours[layouts[-1].system_identifier].values() if one is not None]
    for layout in layouts:
        theirs = [(source.store, _held(source, layout)) for source in sources]
        have = ours[layout.system_identifier]
        lacking = _lacking(theirs, have)
        if any(ours.values()):
            is_past = layout is not layouts[-1] and is_superseded(present, policy)
            gone = _given_up(have, lacking, policy, superseded=is_past)
            found.left += sorted(gone)
            lacking = {name: one for name, one in lacking.items() if name not in gone}
        for name in sorted(lacking):
            _copy_any(theirs, target.store, layout, name, found, dry_run=dry_run)
    return found


def copy_dump(
    source: Store,
    target: Store,
    layout: Layout,
    name: str,
    *,
    contents: Contents | None = None,
    dry_run: bool = False,
) -> CopiedDump:
    """Give the target what it lacks of one dump; with its ``contents`` only what belongs to it, and
    each part is compared with its hash.

    Raises ``NoSuchDump`` for one that is deleted meanwhile, ``DamagedObject``, and what the stores
    raise.
    """
    last = layout.dump(name) + CONTENTS
    wanted = _objects(source, layout, name, contents)
    if last not in wanted:
        raise _deleted(name, source)
    copy = _Copy(source, target, wanted, _hashes(layout, contents))
    lacking = copy.lacking()
    if not dry_run:
        copy.give([key for key in lacking if key != last], name)
        copy.give([key for key in lacking if key == last], name)
        _see_through(copy, target, last, name)
    return CopiedDump(name, len(lacking), sum(wanted[key].size_bytes for key in lacking))


class _Copy(NamedTuple):
    """``wanted`` are all objects of the dump, by key."""

    source: Store
    target: Store
    wanted: Mapping[str, ObjectInfo]
    hashes: Mapping[str, str]

    def lacking(self) -> list[str]:
        """What the target has not, or not of this size."""
        folder = next(iter(self.wanted)).rpartition("/")[0] + "/"
        there = {info.key: info.size_bytes for info in self.target.list(folder)}
        return [key for key, info in self.wanted.items() if there.get(key) != info.size_bytes]

    def give(self, keys: Sequence[str], name: str) -> None:
        from blake3 import blake3

        for key in keys:
            try:
                data = self.source.get(key)
            except ObjectNotFound as error:
                last = f"{key.rpartition('/')[0]}/{CONTENTS}"
                if self.source.exists(last):
                    raise
                raise _deleted(name, self.source) from error
            if key in self.hashes and blake3(data).hexdigest() != self.hashes[key]:
                raise DamagedObject(f"{key} in {self.source.url} is not what was stored.")
            try:
                self.target.put(key, data, if_absent=True)
            except ObjectExists:
                if self.target.get(key) != data:
                    raise


def _see_through(copy: _Copy, target: Store, last: str, name: str) -> None:
    """The contents are there. See that everything else still is, or that they go again."""
    for _ in range(_TRIES):
        lacking = copy.lacking()
        if last in lacking:
            raise _deleted(name, target)
        if not lacking:
            return
        try:
            copy.give(lacking, name)
        except (NoSuchDump, StoreError, DamagedObject):
            target.delete([last])
            raise
    target.delete([last])
    raise _deleted(name, target)


def _copy_any(
    theirs: Sequence[tuple[Store, Held]],
    target: Store,
    layout: Layout,
    name: str,
    found: DumpCopies,
    *,
    dry_run: bool,
) -> None:
    """From the first source that has it sound. One that is deleted meanwhile need not be there."""
    problem: DamagedObject | ObjectNotFound | None = None
    for source, held in theirs:
        if name not in held:
            continue
        one = held[name]
        contents = None if one is None else one.contents
        try:
            copied = copy_dump(source, target, layout, name, contents=contents, dry_run=dry_run)
        except NoSuchDump:
            continue
        except (DamagedObject, ObjectNotFound) as error:
            problem = error
            continue
        found.copied.append(copied)
        return
    if problem is not None:
        found.problems.append((name, problem.what))


def _held(repository: Repository, layout: Layout) -> Held:
    if repository.keyring.can_read_metadata:
        dumps = read_dumps(repository, layout)
        return {
            **{one.id: one for one in dumps.dumps},
            **{one.dump: None for one in dumps.problems},
        }
    end = f"/{CONTENTS}"
    return {
        info.key[len(layout.dumps) :].removesuffix(end): None
        for info in repository.store.list(layout.dumps)
        if info.key.endswith(end)
    }


def _lacking(theirs: Sequence[tuple[Store, Held]], ours: Held) -> dict[str, StoredDump | None]:
    """What others have, as it was when the first of them got it."""
    found: dict[str, StoredDump | None] = {}
    for _, held in theirs:
        for name, one in held.items():
            if name in ours:
                continue
            before = found.get(name)
            if before is None or (one is not None and one.stored < before.stored):
                found[name] = one
    return found


def _given_up(
    ours: Held,
    lacking: Mapping[str, StoredDump | None],
    policy: KeepPolicy,
    *,
    superseded: bool,
) -> set[str]:
    """What the target would not keep of these, had it got them when the others did."""
    both = [one for one in (*ours.values(), *lacking.values()) if one is not None]
    now = datetime.now(UTC)
    decisions = decide_dumps(both, policy, now=now, superseded=superseded)
    return {one.backup for one in decisions if not one.is_kept and one.backup in lacking}


def _objects(
    source: Store, layout: Layout, name: str, contents: Contents | None
) -> dict[str, ObjectInfo]:
    """All that makes the dump, its contents last: looked for when the rest was seen."""
    folder = layout.dump(name)
    last = folder + CONTENTS
    there = {info.key: info for info in source.list(folder) if info.key != last}
    contents_there = {info.key: info for info in source.list(last) if info.key == last}
    if contents is None or not contents_there:
        return {**there, **contents_there}
    parts = sorted(folder + part.name for file in contents.files for part in file.parts)
    for key in parts:
        if key not in there:
            raise ObjectNotFound(f"{key} is not in {source.url}.", key=key)
    named = [key for key in (folder + BEGUN, *parts) if key in there]
    return {**{key: there[key] for key in named}, **contents_there}


def _hashes(layout: Layout, contents: Contents | None) -> dict[str, str]:
    if contents is None:
        return {}
    folder = layout.dump(contents.dump)
    return {folder + part.name: part.blake3 for file in contents.files for part in file.parts}


def _deleted(name: str, store: Store) -> NoSuchDump:
    return NoSuchDump(
        f"The dump {name} was deleted in {store.url} while it was copied.",
        remedy="pgkeep dump list shows what there is.",
    )
