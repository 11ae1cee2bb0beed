"""Whether the packs that a manifest names are there, with the sizes that it gives.

One listing tells it for a thousand packs a request. What a listing lacks is asked for by itself
before it is called missing, since there are stores that list late.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgkeep.errors import ObjectNotFound
from pgkeep.repository.layout import Layout
from pgkeep.repository.pack import PackInfo
from pgkeep.storage.interface import Store

Sizes = dict[str, int]


def list_packs(store: Store, layout: Layout, *, attempt: str | None = None) -> Sizes:
    """The size of every pack by its key; of one attempt's, or of all."""
    prefix = layout.packs if attempt is None else f"{layout.packs}{attempt}/"
    return {info.key: info.size_bytes for info in store.list(prefix)}


def missing_packs(
    store: Store, layout: Layout, packs: Iterable[PackInfo], listed: Sizes
) -> list[str]:
    """The keys of those that are not there, or have another size. ``listed`` learns what a listing
    had not told."""
    missing = []
    for info in packs:
        key = info.key(layout)
        if listed.get(key) != info.size_bytes:
            try:
                listed[key] = store.head(key).size_bytes
            except ObjectNotFound:
                listed.pop(key, None)
        if listed.get(key) != info.size_bytes:
            missing.append(key)
    return missing
