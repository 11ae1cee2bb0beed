"""Up to where the WAL of each timeline was given up (format, section 2.9).

What is missing below a horizon is no gap: it went on purpose. Published before any of it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectNotFound
from pgkeep.postgres.lsn import Lsn
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record, list_numbered, member, parse_record, publish
from pgkeep.storage.fallback import stores_of
from pgkeep.storage.interface import Store

_REQUESTS = 16


def read_horizons(store: Store, layout: Layout) -> dict[int, Lsn]:
    """The horizon of each timeline that has one; of several repositories that are read as one, the
    lowest, where one of them has none.

    One that cannot be read is passed over: then what is missing is called a gap.
    """
    found = [_horizons_of(one, layout) for one in stores_of(store)]
    common = set(found[0]).intersection(*found[1:])
    return {timeline: min(one[timeline] for one in found) for timeline in common}


def publish_horizon(
    store: Store, layout: Layout, timeline: int, lsn: Lsn, *, at: str, by: Mapping[str, Any]
) -> None:
    """Give up what lies below; returns when that is said durably. Raises what the store raises."""
    members = {"timeline": timeline, "lsn": str(lsn)}
    record = build_record("horizon", members, at=at, by=dict(by))
    publish(store, layout.admin("horizon"), lambda _: record)


def _horizons_of(store: Store, layout: Layout) -> dict[int, Lsn]:
    def read(key: str) -> tuple[int, Lsn] | None:
        try:
            members = parse_record(store.get(key), key, kind="horizon")
            lsn = Lsn.parse(member(members, "lsn", str, name=key))
            return member(members, "timeline", int, name=key), lsn
        except (DamagedObject, FormatTooNew, ObjectNotFound, ValueError):
            return None

    keys = [info.key for info in list_numbered(store, layout.admin("horizon"))]
    found: dict[int, Lsn] = {}
    if keys:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for timeline, lsn in filter(None, pool.map(read, keys)):
                found[timeline] = max(lsn, found.get(timeline, lsn))
    return found
