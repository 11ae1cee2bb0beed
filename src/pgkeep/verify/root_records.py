"""The few records above all systems: who the repository is, who can open it, and which systems a
cluster had. One that is damaged is a finding, and the rest is checked as far as it can be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.repository import layout as layouts
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import list_numbered, read_record
from pgkeep.repository.system import read_systems
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.wrapped import WrappedStore
from pgkeep.verify.problem import Problem, what_of


def look_at_root(store: Store, cluster: str) -> list[Problem]:
    """Read each of them. Raises what the store raises."""
    problems = []
    for info in list_numbered(store, layouts.KEYS):
        if (why := _why_unreadable(store, info.key, "keys")) is not None:
            problems.append(Problem(info.key, why))
    prefix, before = layouts.systems(cluster), 0
    for info in list_numbered(store, prefix):
        number = int(info.key[len(prefix) :])
        for one in range(before + 1, number):
            what = "is missing, and a later one is there"
            problems.append(Problem(layouts.numbered(prefix, one), what))
        before = number
        if (why := _why_unreadable(store, info.key, "system")) is not None:
            problems.append(Problem(info.key, why))
    return problems


def _why_unreadable(store: Store, key: str, kind: str) -> str | None:
    try:
        read_record(store, key, kind=kind)
    except DamagedObject as error:
        return what_of(error, key)
    except ObjectNotFound:
        return "is listed, and is not there"
    return None


def find_layouts(store: Store, cluster: str, problems: Collection[Problem]) -> list[Layout]:
    """Every system of a cluster, the present one last. Where records of them are ``problems``, also
    those of which objects are there. Raises what the store raises."""
    prefix = layouts.systems(cluster)
    damaged = {one.key for one in problems if one.key.startswith(prefix)}
    records = read_systems(Without(store, damaged), cluster)
    numbers = list(dict.fromkeys(record.system_identifier for record in reversed(records)))
    if damaged:
        numbers += [one for one in _listed_systems(store, cluster) if one not in numbers]
    return [Layout(cluster, number) for number in reversed(numbers)]


def _listed_systems(store: Store, cluster: str) -> Iterator[int]:
    """The folders of a cluster whose names are system identifiers: a request for each."""
    after = None
    root = f"{cluster}/"
    while info := next(iter(store.list(root, start_after=after)), None):
        name = info.key[len(root) :].partition("/")[0]
        if name.isascii() and name.isdecimal() and len(name) <= 20:
            yield int(name)
        after = f"{root}{name}0"  # behind all that begins with the name and a slash


class Without(WrappedStore):
    """``store`` without some objects: what is damaged, and has a sound one before it."""

    def __init__(self, store: Store, keys: Collection[str]) -> None:
        super().__init__(store)
        self._keys = frozenset(keys)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        for info in self.store.list(prefix, start_after=start_after):
            if info.key not in self._keys:
                yield info
