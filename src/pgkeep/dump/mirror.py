"""Giving a repository a dump that another one has: byte for byte, its contents last."""

from __future__ import annotations

from pgkeep.errors import DamagedObject, ObjectExists
from pgkeep.repository.dump_record import Contents
from pgkeep.repository.dumps import CONTENTS
from pgkeep.repository.layout import Layout
from pgkeep.storage.interface import Store


def copy_dump(source: Store, target: Store, layout: Layout, contents: Contents) -> int:
    """Give the target what it lacks of the dump; returns how many objects that were.

    Raises ``DamagedObject`` for a part that the source has otherwise than the contents say, and
    what the stores raise.
    """
    from blake3 import blake3

    folder = layout.dump(contents.dump)
    there = {info.key: info.size_bytes for info in target.list(folder)}
    copied = 0
    for file in contents.files:
        for part in file.parts:
            key = folder + part.name
            if there.get(key) == part.size_bytes:
                continue
            data = source.get(key)
            if blake3(data).hexdigest() != part.blake3:
                raise DamagedObject(f"{key} in {source.url} is not what was stored.", object=key)
            target.put(key, data, if_absent=True)
            copied += 1
    if folder + CONTENTS not in there:
        data = source.get(folder + CONTENTS)
        try:
            target.put(folder + CONTENTS, data, if_absent=True)
        except ObjectExists:
            if target.get(folder + CONTENTS) != data:
                raise
        copied += 1
    return copied
