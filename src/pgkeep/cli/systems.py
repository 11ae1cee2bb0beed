"""Which of a cluster's systems a command means, and which others there are.

A cluster that was created anew (initdb, ``pg_upgrade``) goes on under its name with another system
identifier. What was kept of the earlier one stays in the repository, and is reached by
``--system``. A system that came back, restored in place of its successor, is the present one again.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from pgkeep.cli.render import moment
from pgkeep.config import Settings
from pgkeep.errors import TargetNotReachable, UnknownSystem, UsageError
from pgkeep.repository.catalogue import count_backups
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import System, read_systems
from pgkeep.storage.together import each
from pgkeep.units import from_utc_text, show_moment


@dataclass(frozen=True)
class KnownSystem:
    """One system of a cluster. ``until`` is when another took its place, None for the present one.

    ``backups`` counts also those that cannot be read.
    """

    system_identifier: int
    since: datetime
    until: datetime | None
    backups: int

    @property
    def backups_text(self) -> str:
        return f"{self.backups} backup{'' if self.backups == 1 else 's'}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; identifiers are texts, since they exceed what JSON readers keep exact."""
        return {
            "system_identifier": str(self.system_identifier),
            "since": self.since,
            "until": self.until,
            "present": self.until is None,
            "backups": self.backups,
        }


def add_system_argument(parser: ArgumentParser) -> None:
    """The option that reaches earlier systems."""
    group = parser.add_argument_group("which cluster")
    group.add_argument(
        "--system", metavar="ID", help="an earlier system of this cluster, as list names it"
    )
    group.add_argument(
        "--as-of",
        metavar="MOMENT",
        help="as the repository was then, whatever was deleted or overwritten since; in a bucket "
        "that keeps versions: 2026-11-20T14:03+01:00",
    )


def system_layout(settings: Settings, repository: Repository, *, system: str | None) -> Layout:
    """The keys of the system that was asked for, else of the cluster's present one.

    Raises ``UnknownSystem``, ``UsageError``.
    """
    records = _records(settings, repository)
    if system is None:
        return Layout(settings.cluster, records[-1].system_identifier)
    known = list(dict.fromkeys(record.system_identifier for record in records))
    shown = f"Known are, oldest first: {', '.join(map(str, known))}."
    if not (system.isascii() and system.isdecimal()):
        raise UsageError(f"--system {system!r} is not a system identifier.", remedy=shown)
    if int(system) not in known:
        raise UnknownSystem(
            f"The cluster {settings.cluster!r} never was system {system}.",
            remedy=shown,
            system=system,
        )
    return Layout(settings.cluster, int(system))


def all_layouts(settings: Settings, repository: Repository) -> list[Layout]:
    """Every system that the cluster ever was, the present one last. Raises ``UnknownSystem``."""
    records = reversed(_records(settings, repository))
    numbers = dict.fromkeys(record.system_identifier for record in records)
    return [Layout(settings.cluster, number) for number in reversed(numbers)]


def restorable_layout(settings: Settings, repository: Repository, *, system: str | None) -> Layout:
    """As :func:`system_layout`, for a restore, which wants a system that has backups.

    Raises also ``TargetNotReachable``, when the present one has none and an earlier one has.
    """
    if system is not None:
        return system_layout(settings, repository, system=system)
    if len({record.system_identifier for record in _records(settings, repository)}) == 1:
        return system_layout(settings, repository, system=None)  # and nothing is to be counted
    *earlier, present = known_systems(settings, repository)
    earlier = [one for one in earlier if one.backups]
    if present.backups or not earlier:
        return Layout(settings.cluster, present.system_identifier)
    last = earlier[-1]
    until = f" (until {show_moment(last.until)})" if last.until else ""
    raise TargetNotReachable(
        f"There is no backup of {settings.cluster!r} as it is now, system "
        f"{present.system_identifier}, in {repository.store.url}.",
        why=f"An earlier system, {last.system_identifier}{until}, has {last.backups_text}.",
        remedy="If that is the one you want: pgkeep restore "
        f"--system {last.system_identifier}, with the options as before.",
        system=present.system_identifier,
        earlier=last.system_identifier,
    )


def count_other_backups(
    settings: Settings, repository: Repository, layout: Layout
) -> dict[int, int]:
    """How many backups each system of a cluster has, but for the one of ``layout``."""
    numbers = {record.system_identifier for record in _records(settings, repository)}
    return _counted(settings, repository, numbers - {layout.system_identifier})


def known_systems(
    settings: Settings, repository: Repository, *, counts: Mapping[int, int] | None = None
) -> list[KnownSystem]:
    """All systems of a cluster, each once, the present one last. Raises ``UnknownSystem``.

    ``counts`` are the backups of each, if they are known.
    """
    records = _records(settings, repository)
    if counts is None:
        numbers = {record.system_identifier for record in records}
        counts = _counted(settings, repository, numbers)
    ends = [from_utc_text(record.since) for record in records[1:]]
    found: dict[int, KnownSystem] = {}
    for record, until in zip(records, [*ends, None], strict=True):
        number = record.system_identifier
        known = found.pop(number, None)  # it came back: it moves to the end
        if known is None:
            since = from_utc_text(record.since)
            known = KnownSystem(number, since, until, counts.get(number, 0))
        found[number] = replace(known, until=until)
    return list(found.values())


def other_system_lines(
    systems: Sequence[KnownSystem], layout: Layout, *, now: datetime
) -> list[str]:
    """A line for each system that has backups and is not the one that is shown."""
    lines = []
    for one in systems:
        number = one.system_identifier
        if not one.backups or number == layout.system_identifier:
            continue
        if one.until is None:
            lines.append(f"The present system {number} has {one.backups_text}: pgkeep list")
        else:
            lines.append(
                f"An earlier system {number} (until {moment(one.until, now)}) has "
                f"{one.backups_text}: pgkeep list --system {number}"
            )
    return lines


def _counted(settings: Settings, repository: Repository, numbers: Iterable[int]) -> dict[int, int]:
    known = list(numbers)
    layouts = [Layout(settings.cluster, number) for number in known]
    counts = each(partial(count_backups, repository.store), layouts)
    return dict(zip(known, counts, strict=True))


def _records(settings: Settings, repository: Repository) -> list[System]:
    records = read_systems(repository.store, settings.cluster)
    if not records:
        raise UnknownSystem(
            f"The cluster {settings.cluster!r} is not known in {repository.store.url}.",
            remedy="Check PGKEEP_CLUSTER, or run pgkeep init on the database host.",
        )
    return records
