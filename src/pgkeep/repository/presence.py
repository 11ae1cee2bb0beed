"""Whether the packs that a manifest names are there, with the sizes that it gives.

One listing tells it for a thousand packs a request. What a listing lacks is asked for by itself
before it is called missing, since there are stores that list late. Nothing is held but what is
looked for: the packs of ten terabytes are many.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pgkeep.errors import ObjectNotFound
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack import PackInfo
from pgkeep.storage.interface import Store


class Missing(NamedTuple):
    """A pack that is not there, or has another size: then ``size_bytes`` is what it has."""

    pack: PackInfo
    key: str
    size_bytes: int | None


def missing_packs(
    store: Store, layout: Layout, packs: Iterable[PackInfo], *, attempt: str | None = None
) -> list[Missing]:
    """Those that are not there as they should be. With ``attempt`` all of them are of that one,
    and only its packs are listed."""
    wanted = {info.key(layout): info for info in packs}
    if not wanted:
        return []
    for found in store.list(layout.packs if attempt is None else f"{layout.packs}{attempt}/"):
        info = wanted.get(found.key)
        if info is not None and info.size_bytes == found.size_bytes:
            del wanted[found.key]
    missing = []
    for key, info in wanted.items():
        try:
            size = store.head(key).size_bytes
        except ObjectNotFound:
            missing.append(Missing(info, key, None))
        else:
            if size != info.size_bytes:
                missing.append(Missing(info, key, size))
    return missing
