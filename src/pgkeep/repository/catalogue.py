"""The catalogue: what listing the repository means. There is no catalogue object to get out of
date.

Backups come from manifests, WAL from names, timelines from the plain headers of history files
(``wal_inventory.py``). From the three follow the *recovery windows*: for a timeline, from the end
of a good backup to the end of the WAL that follows it without a gap.

A backup whose manifests are both unreadable is neither listed nor forgotten: ``read_catalogue``
names it beside the others, for whoever shows things, and ``list_backups`` raises, for whoever
would else choose another one without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeVar

from pgkeep.errors import (
    DamagedObject,
    FormatTooNew,
    NoSuchBackup,
    ObjectNotFound,
    PgkeepError,
    StoreError,
    WrongIdentity,
)
from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import previous_segment_number, segment_name, segment_number
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import Head, Manifest, read_head, read_manifest
from pgkeep.repository.trash import Trash, read_trash
from pgkeep.repository.wal import read_wal_header
from pgkeep.repository.wal_inventory import Gap as Gap
from pgkeep.repository.wal_inventory import WalInventory as WalInventory
from pgkeep.repository.wal_inventory import WalListing, list_wal
from pgkeep.repository.wal_inventory import read_histories as read_histories
from pgkeep.repository.wal_inventory import read_inventory as read_inventory
from pgkeep.repository.wal_inventory import timelines_after as timelines_after
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.fallback import read_sound, stores_of
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.storage.together import each, together
from pgkeep.units import from_utc_text

_DAMAGED_SEGMENTS = 8
_T = TypeVar("_T")


@dataclass(frozen=True)
class Backup:
    """A backup that exists. ``copies`` says under which of the two prefixes its manifest was
    found."""

    head: Head
    copies: tuple[bool, bool]

    @property
    def id(self) -> str:
        return self.head.backup

    @property
    def start_lsn(self) -> Lsn:
        return Lsn.parse(self.head.start_lsn)

    @property
    def stop_lsn(self) -> Lsn:
        return Lsn.parse(self.head.stop_lsn)

    @property
    def ended(self) -> datetime:
        return from_utc_text(self.head.ended)


class Problem(NamedTuple):
    """A backup that exists and cannot be read, and why."""

    backup: str
    error: PgkeepError


class Catalogue(NamedTuple):
    """All backups that exist, oldest first: the readable, and what is wrong with the others."""

    backups: tuple[Backup, ...]
    problems: tuple[Problem, ...]

    def whole(self) -> list[Backup]:
        """The backups, if there are no others. Raises what is wrong with the first of those."""
        if self.problems:
            raise self.problems[0].error
        return list(self.backups)


class Listed(NamedTuple):
    """The names under each of the two prefixes, and those that are backups, oldest first."""

    copies: tuple[set[str], set[str]]
    names: list[str]


@dataclass(frozen=True)
class Window:
    """Any moment in [from_moment, to_moment] of ``timeline`` can be restored to.

    ``to_moment`` is when the last segment was closed: not earlier than its last commit.
    """

    timeline: int
    from_moment: datetime
    to_moment: datetime
    from_lsn: Lsn
    last_segment: str
    backups: tuple[str, ...]


def list_backups(repository: Repository, layout: Layout) -> list[Backup]:
    """All backups that exist, oldest first.

    Raises ``IdentityNeeded`` without the metadata key. A backup whose manifests are both
    unreadable is an error (``DamagedObject`` and the like), not an absence.
    """
    return read_catalogue(repository, layout).whole()


def read_catalogue(
    repository: Repository, layout: Layout, *, with_trash: bool = False
) -> Catalogue:
    """As :func:`list_backups`, but one unreadable backup does not hide the others; with those that
    are in the trash if they are wanted.

    Raises ``IdentityNeeded``, and what the store raises.
    """
    return _read(repository, layout, _listed(repository.store, layout, with_trash=with_trash))


def read_catalogue_and_wal(repository: Repository, layout: Layout) -> tuple[Catalogue, WalListing]:
    """As :func:`read_catalogue` and ``list_wal``.

    WAL is listed after the manifests, while their heads are read: all WAL of a backup was stored
    before its manifest was, and must not seem to be missing.
    """
    listed = _listed(repository.store, layout)
    return together(lambda: _read(repository, layout, listed), lambda: list_wal(repository, layout))


def _read(repository: Repository, layout: Layout, listed: Listed) -> Catalogue:
    def load(name: str) -> Backup | Problem | None:
        copies = (name in listed.copies[0], name in listed.copies[1])
        try:
            return Backup(_either(repository, layout, name, copies, read_head), copies)
        except (DamagedObject, FormatTooNew, WrongIdentity) as error:
            return Problem(name, error)
        except NoSuchBackup:
            return None  # it was deleted between the listing and now

    loaded = each(load, listed.names)
    return Catalogue(
        tuple(one for one in loaded if isinstance(one, Backup)),
        tuple(one for one in loaded if isinstance(one, Problem)),
    )


def stored_manifests(store: Store, layout: Layout) -> dict[str, list[ObjectInfo]]:
    """The manifest and its copy of every backup, as far as they are there; those in the trash, and
    those that cannot be read, too. Raises what the store raises."""
    found: dict[str, list[ObjectInfo]] = {}
    for prefix in (layout.manifests, layout.manifest_copies):
        for info in store.list(prefix):
            found.setdefault(info.key[len(prefix) :], []).append(info)
    return found


def count_backups(store: Store, layout: Layout) -> int:
    """How many backups exist, the unreadable too: three listings, and nothing is read."""
    return len(_listed(store, layout).names)


def load_manifest(repository: Repository, layout: Layout, backup: Backup) -> Manifest:
    """The whole manifest of a backup, from whichever copy is sound.

    Raises ``DamagedObject`` when neither is, ``NoSuchBackup`` when both are gone.
    """
    return _either(repository, layout, backup.id, backup.copies, read_manifest)


def is_complete(backup: Backup, inventory: WalInventory) -> bool:
    """Whether every segment from the backup's start to its stop is stored."""
    last = previous_segment_number(backup.stop_lsn, inventory.segment_size)
    first = segment_number(backup.start_lsn, inventory.segment_size)
    end = inventory.run_end(backup.head.timeline, first)
    return end is not None and end >= last


def is_good(backup: Backup, inventory: WalInventory) -> bool:
    """WAL from start to end is complete, and no page that it refers to is marked as failed."""
    return backup.head.failed_pages == 0 and is_complete(backup, inventory)


def recovery_windows(
    repository: Repository,
    layout: Layout,
    backups: Iterable[Backup],
    inventory: WalInventory,
) -> list[Window]:
    """For each timeline, the intervals to any moment of which a restore is possible.

    Backups with failed pages count: they restore, and ``list`` marks them.
    """
    complete = [backup for backup in backups if is_complete(backup, inventory)]
    timelines = set(inventory.segments) | {backup.head.timeline for backup in complete}
    ends = [
        end
        for timeline in sorted(timelines)
        if (history := inventory.history(timeline)) is not None
        for end in _ends_of(history, complete, inventory)
    ]
    return each(partial(_window, repository, layout, inventory), ends)


class _End(NamedTuple):
    """Where WAL ends that begins in a backup, and the backups from which one gets there."""

    timeline: int
    segno: int
    backups: list[Backup]


def _ends_of(
    history: TimelineHistory, backups: Sequence[Backup], inventory: WalInventory
) -> list[_End]:
    by_end: dict[tuple[int, int], list[Backup]] = {}
    for backup in backups:
        if not history.contains(backup.head.timeline, backup.stop_lsn):
            continue
        reached = inventory.reach(history, backup.start_lsn)
        # An end on an ancestor is that ancestor's window, or belongs to nobody: it is shown there.
        if reached is not None and reached[0] == history.timeline:
            by_end.setdefault(reached, []).append(backup)
    return [_End(*end, members) for end, members in sorted(by_end.items())]


def _window(repository: Repository, layout: Layout, inventory: WalInventory, end: _End) -> Window:
    timeline, segno, members = end
    name, closed = _closed(repository, layout, timeline, segno, inventory=inventory)
    first = min(members, key=lambda backup: backup.ended)
    return Window(
        timeline,
        first.ended,
        max(closed or first.ended, first.ended),
        first.stop_lsn,
        name,
        tuple(backup.id for backup in members),
    )


def _closed(
    repository: Repository, layout: Layout, timeline: int, segno: int, *, inventory: WalInventory
) -> tuple[str, datetime | None]:
    """The last readable segment of a run, up to ``segno``, and when it was closed.

    A segment whose header is damaged ends a window before itself. At most a few are tried: then the
    window ends with its backup.
    """
    for number in range(segno, max(segno - _DAMAGED_SEGMENTS, -1), -1):
        if not inventory.has(timeline, number):
            break
        name = segment_name(timeline, number, inventory.segment_size)
        try:
            key, keyring = layout.wal_file(name), repository.keyring
            header = read_sound(repository.store, key, _reading(read_wal_header, key, keyring))
            return name, from_utc_text(header.modified)
        except (DamagedObject, ObjectNotFound, ValueError):
            continue
    return segment_name(timeline, segno, inventory.segment_size), None


def _listed(store: Store, layout: Layout, *, with_trash: bool = False) -> Listed:
    prefixes = (layout.manifests, layout.manifest_copies, layout.voids)
    first: set[str] = set()
    second: set[str] = set()
    for listed, trash in _list_each(store, layout, prefixes):
        # What was taken back or thrown away was that in its own repository: it speaks of packs
        # there.
        out = set(listed[2])
        if not with_trash:
            out |= {name for name in trash.states if trash.is_out(name)}
        first |= listed[0] - out
        second |= listed[1] - out
    return Listed((first, second), sorted(first | second))


def _list_each(
    store: Store, layout: Layout, prefixes: Sequence[str]
) -> list[tuple[list[set[str]], Trash]]:
    """The names under each prefix, and what is in the trash, for each of the repositories that are
    read as one.

    One that is away is left out, and is an error only when all are.
    """
    stores, found = stores_of(store), []
    problem: StoreError | None = None
    for one in stores:
        try:
            found.append(
                together(
                    partial(each, partial(_names, one), prefixes), partial(read_trash, one, layout)
                )
            )
        except StoreError as error:
            if len(stores) == 1:
                raise
            problem = error
    if problem is not None and not found:
        raise problem
    return found


def _names(store: Store, prefix: str) -> set[str]:
    return {info.key[len(prefix) :] for info in store.list(prefix)}


def _reading(
    read: Callable[[Store, str, Keyring], _T], key: str, keyring: Keyring
) -> Callable[[Store], _T]:
    return lambda store: read(store, key, keyring)


def _either(
    repository: Repository,
    layout: Layout,
    name: str,
    copies: tuple[bool, bool],
    read: Callable[[Store, str, Keyring], _T],
) -> _T:
    keys = (layout.manifest(name), layout.manifest_copy(name))
    problem: PgkeepError | None = None
    keyring = repository.keyring
    for key, there in zip(keys, copies, strict=True):
        if there:
            try:
                return read_sound(repository.store, key, _reading(read, key, keyring))
            except (DamagedObject, FormatTooNew, WrongIdentity) as error:
                problem = error
            except ObjectNotFound:
                continue
    raise problem or NoSuchBackup(
        f"The backup {name} of the cluster {layout.cluster!r} is not there any more.",
        why="Its manifests were deleted meanwhile.",
        remedy="pgkeep list shows what there is.",
    )
