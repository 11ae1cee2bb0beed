"""Which packs a sweep is about to delete (format, sections 2.9 and 11).

A sweep says so an hour before it does, in records that are numbered: of those that name a key the
newest says whether it is condemned, or spared after all. Whoever works from packs reads them after
it has created its pin, and takes nothing that they name.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pgkeep.errors import DamagedObject
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import list_numbered, member, parse_record
from pgkeep.storage.interface import Store

_REQUESTS = 16
_KINDS = ("condemned", "spared")


def condemned_keys(store: Store, layout: Layout) -> set[str]:
    """All keys that are condemned now. Raises ``DamagedObject``, ``FormatTooNew``."""

    def read(key: str) -> tuple[bool, list[str]]:
        return _parse(store.get(key), key)

    found: set[str] = set()
    names = [info.key for info in list_numbered(store, layout.admin("condemned"))]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for is_condemned, keys in pool.map(read, names):
            if is_condemned:
                found.update(keys)
            else:
                found.difference_update(keys)
    return found


def _parse(data: bytes, name: str) -> tuple[bool, list[str]]:
    """Whether a record condemns (else it spares), and which keys."""
    members = parse_record(data, name, kind=_KINDS)
    keys = member(members, "keys", list, name=name)
    if not all(isinstance(key, str) for key in keys):
        raise DamagedObject(f"{name} is damaged: not all of its keys are text.", object=name)
    return members["type"] == "condemned", keys
