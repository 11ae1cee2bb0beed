"""Packs that a backup stops needing, by storing again what it would still take from them.

A sweep deletes only packs that nobody needs, and a restore asks for each pack at least once. So
before the copy, from what the parent names in each pack, those are chosen

* of whose bytes less than a quarter is still named (of small ones, headers and indexes are the
  larger part, and nothing is gained), and
* the emptiest beyond max(64, 4 × live bytes / pack size) packs.

Their pages then count as changed wherever they are met. The number aimed at is a quarter below the
bound, so that not every backup has to do it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgkeep.repository.map_rows import PackKey
from pgkeep.repository.pack import PACK_BYTES

FEWEST_PACKS = 64
_LIVE_SHARE = 4
_WORTHWHILE_BYTES = 1 << 20


def most_packs(live_bytes: int) -> int:
    """How many packs a manifest may name."""
    return max(FEWEST_PACKS, 4 * live_bytes // PACK_BYTES)


def packs_to_retire(
    named: Mapping[PackKey, int], sizes: Mapping[PackKey, int]
) -> frozenset[PackKey]:
    """The packs to do without. ``named`` are the stored bytes needed of each, ``sizes`` theirs."""
    dead = {
        pack
        for pack, live in named.items()
        if sizes.get(pack, 0) >= _WORTHWHILE_BYTES and live * _LIVE_SHARE < sizes[pack]
    }
    rest = sorted((live, pack) for pack, live in named.items() if pack not in dead)
    most = most_packs(sum(named.values()))
    if len(rest) > most:
        dead.update(pack for _, pack in rest[: len(rest) - most * 3 // 4])
    return frozenset(dead)
