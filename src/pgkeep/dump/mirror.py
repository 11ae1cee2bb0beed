"""Giving a repository the dumps that another one has: byte for byte, each one's contents last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgkeep.errors import DamagedObject, ObjectExists
from pgkeep.repository.dump_record import Contents
from pgkeep.repository.dumps import CONTENTS
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import Store


class CopiedDump(NamedTuple):
    """A dump that a target lacked. ``objects`` and ``bytes`` are what was copied, or would be."""

    dump: str
    objects: int
    bytes: int


def copy_dumps(
    sources: Sequence[Store], target: Store, layout: Layout, *, dry_run: bool = False
) -> list[CopiedDump]:
    """Give the target every dump that one of the sources has and it lacks. No key is needed.

    Raises what the stores raise.
    """
    have = _dumps(target, layout)
    found: list[CopiedDump] = []
    for source in sources:
        for name in sorted(_dumps(source, layout) - have):
            found.append(copy_dump(source, target, layout, name, dry_run=dry_run))
            have.add(name)
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
    """Give the target what it lacks of one dump; with its ``contents`` each part is compared with
    its hash.

    Raises ``DamagedObject``, and what the stores raise.
    """
    from blake3 import blake3

    folder = layout.dump(name)
    hashes = {
        folder + part.name: part.blake3
        for file in (contents.files if contents else ())
        for part in file.parts
    }
    there = {info.key: info.size_bytes for info in target.list(folder)}
    last = folder + CONTENTS
    wanted = [info for info in source.list(folder) if info.key != last]
    wanted += [info for info in source.list(last) if info.key == last]
    objects = size = 0
    for info in wanted:
        if there.get(info.key) == info.size_bytes:
            continue
        objects, size = objects + 1, size + info.size_bytes
        if dry_run:
            continue
        data = source.get(info.key)
        if info.key in hashes and blake3(data).hexdigest() != hashes[info.key]:
            raise DamagedObject(f"{info.key} in {source.url} is not what was stored.")
        try:
            target.put(info.key, data, if_absent=True)
        except ObjectExists:
            if target.get(info.key) != data:
                raise
    return CopiedDump(name, objects, size)


def _dumps(store: Store, layout: Layout) -> set[str]:
    end = f"/{CONTENTS}"
    return {
        info.key[len(layout.dumps) :].removesuffix(end)
        for info in store.list(layout.dumps)
        if info.key.endswith(end)
    }
