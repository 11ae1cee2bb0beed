"""Where the tablespaces of a backup are restored to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgkeep.errors import UsageError
from pgkeep.repository.manifest import Manifest, Tablespace
from pgkeep.restore.destination import check_empty
from pgkeep.restore.plan import PlacedTablespace


def place_tablespaces(
    into: Path,
    tablespaces: Sequence[Tablespace],
    wanted: Mapping[str, str],
    *,
    standing: Mapping[int, Path],
) -> tuple[PlacedTablespace, ...]:
    """Where each tablespace goes: beside the new directory unless told, never where it was.

    (The original may be alive on this very host, and its tablespaces with it.) ``standing`` are
    those, by OID, that the directory which is restored over has itself: they stay.
    Raises ``UsageError`` for a name that the backup does not have, ``DirectoryNotEmpty``.
    """
    known = {str(t.oid) for t in tablespaces} | {t.name for t in tablespaces}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"The backup has no tablespace {name!r}.",
                remedy=f"It has: {', '.join(sorted(known)) or 'none'}.",
            )
    placed: list[PlacedTablespace] = []
    for space in tablespaces:
        told = wanted.get(str(space.oid)) or wanted.get(space.name)
        beside = into.parent / f"{into.name}.tablespaces" / str(space.oid)
        location = standing.get(space.oid, beside)
        if told:
            location = Path(os.path.abspath(told))  # noqa: PTH100
        if location != standing.get(space.oid):
            _check_apart(location, space.name, [into, *(one.location for one in placed)])
            check_empty(location)
        placed.append(PlacedTablespace(space.oid, space.name, space.location, location))
    return tuple(placed)


def _check_apart(location: Path, name: str, others: Sequence[Path]) -> None:
    """Raise ``UsageError`` if a tablespace would lie in another one, or in the data directory.

    Files of two tablespaces may have one name, and what is not the data directory's own is removed
    from it by the next restore into it.
    """
    place = location.resolve()
    for other in others:
        if place.is_relative_to(other.resolve()) or other.resolve().is_relative_to(place):
            raise UsageError(
                f"The tablespace {name} cannot be placed in {location}: {other} is restored there.",
                remedy="Give each tablespace a directory of its own, outside of the data "
                "directory: --tablespace NAME=DIR",
            )


def linked_tablespaces(manifest: Manifest) -> list[Tablespace]:
    """The tablespaces that are links in the data directory. Raises ``DamagedObject``."""
    by_oid = {space.oid: space for space in manifest.tablespaces()}
    found = []
    for path, target in manifest.links():
        oid = path.rpartition("/")[2]
        found.append(by_oid.get(int(oid)) or Tablespace(int(oid), oid, target))
    return found
