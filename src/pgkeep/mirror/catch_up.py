"""Giving a repository what others have: WAL and histories, then packs, and manifests last.

The order is the promise of a backup: a manifest in the target means that every pack that it names
is there, with the size that it gives, and all WAL that any source has. So a copy may be cut off at
any moment, and the next one goes on where the objects themselves say it stopped.

Before packs are copied, pins in the target cover them (``guarding.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgkeep.errors import (
    DamagedObject,
    ObjectExists,
    ObjectNotFound,
    PgkeepError,
    RepositoryError,
    SealError,
)
from pgkeep.mirror.guarding import Guard
from pgkeep.mirror.listing import Holdings, Sizes, holdings, segment_size_of, sizes_of
from pgkeep.mirror.member import Member
from pgkeep.mirror.transfer import Transfer, Wanted, sound
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_name import MAX_SEGMENT_SIZE
from pgkeep.progress import Progress
from pgkeep.repository.check_records import read_checks
from pgkeep.repository.identity import Repository, RepositoryIdentity
from pgkeep.repository.layout import Layout, systems
from pgkeep.repository.manifest import Head, parse_manifest
from pgkeep.repository.pack import PackInfo
from pgkeep.repository.presence import missing_packs
from pgkeep.repository.record import list_numbered, parse_record
from pgkeep.seal.keyring import Keyring
from pgkeep.storage.checked import not_kept
from pgkeep.storage.fallback import FallbackStore, read_sound
from pgkeep.storage.interface import Store


@dataclass(frozen=True)
class CopyRequest:
    """What is to be copied. ``backups`` None means all. ``by`` is the writer of records. ``mend``:
    what the target lists already is looked at, too, and what is bad of it replaced; with the
    ``identity`` of the repositories also what checks found."""

    keyring: Keyring
    by: Mapping[str, Any]
    backups: Collection[str] | None = None
    dry_run: bool = False
    mend: bool = False
    identity: RepositoryIdentity | None = None

    def wants(self, backup: str) -> bool:
        return self.backups is None or backup in self.backups


@dataclass
class CopyReport:
    """What became of one target. ``backups`` are those that it has now and had not before;
    ``problems`` are (what could not be copied, why)."""

    target: Member
    made: bool = False
    objects: int = 0
    bytes: int = 0
    wal_files: int = 0
    packs: int = 0
    mended: int = 0
    backups: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.target.name,
            "url": self.target.url,
            "made": self.made,
            "objects": self.objects,
            "bytes": self.bytes,
            "wal_files": self.wal_files,
            "packs": self.packs,
            "mended": self.mended,
            "backups": self.backups,
            "problems": [{"what": what, "why": why} for what, why in self.problems],
        }


def catch_up(
    report: CopyReport,
    sources: Sequence[Member],
    layouts: Sequence[Layout],
    request: CopyRequest,
    *,
    progress: Progress,
) -> None:
    """Give ``report.target`` what the sources have of these systems; adds to the report.

    Raises what the stores raise: then the target lacks something, and has no manifest too many.
    """
    for layout in layouts:
        _CatchUp(report, sources, layout, request, progress).run()


class _CatchUp:
    """One system of a cluster."""

    def __init__(
        self,
        report: CopyReport,
        sources: Sequence[Member],
        layout: Layout,
        request: CopyRequest,
        progress: Progress,
    ) -> None:
        self._report, self._sources, self._layout = report, sources, layout
        self._request, self._progress = request, progress
        self._target = report.target
        self._source = FallbackStore([one.store for one in sources], tell=progress.warn)
        self._transfer = Transfer(self._target, sources, progress=progress)
        self._guard = Guard(self._target, layout, request.by)
        self._packs: Sizes | None = None
        self._ours: Holdings
        self._segment_size: int

    def run(self) -> None:
        layout, report = self._layout, self._report
        self._progress.phase(f"looking at what {self._target} lacks")
        theirs = [holdings(one, layout) for one in self._sources]
        ours = self._ours = holdings(self._target, layout)
        self._segment_size = self._find_segment_size(theirs)
        if not self._request.dry_run:
            copy_systems(self._source, self._target.store, layout.cluster)
        self._copy_wal(theirs, ours)
        for backup in dict.fromkeys(one for their in theirs for one in ours.differ(layout, their)):
            report.problems.append((f"backup {backup}", str(_another(backup, self._target))))
        for backup in self._lacking(theirs, ours):
            try:
                if not self._copy_backup(backup):
                    continue
            except (ObjectNotFound, DamagedObject, RepositoryError) as error:
                report.problems.append((f"backup {backup}", str(error)))
            else:
                report.backups.append(backup)
        if self._request.mend:
            self._mend(ours)
        report.objects += self._transfer.objects
        report.bytes += self._transfer.bytes

    def _mend(self, ours: Holdings) -> None:
        """Packs that the target's own backups name and it lacks, or has cut off; and what a check
        found bad there and is."""
        layout, store, report = self._layout, self._target.store, self._report
        here = self._packs if self._packs is not None else sizes_of(store, layout.packs)
        lacking: dict[str, int] = {}
        for backup in sorted(ours.backups(layout)):
            for pack in self._packs_of(backup):
                if here.get(pack.key(layout)) != pack.size_bytes:
                    lacking[pack.key(layout)] = pack.size_bytes
        bad = {key: lacking.pop(key) for key in sorted(lacking) if key in here}
        for key in self._found_bad():
            bad.setdefault(key, 0)
        report.packs += len(lacking)
        report.mended += len(bad)
        wanted = [Wanted(key, size) for key, size in sorted(lacking.items())]
        self._move(wanted, f"bringing {len(wanted)} packs back to {self._target}")
        if self._request.dry_run:
            report.objects += len(bad)
            return
        for failed in self._transfer.replace([Wanted(key, size) for key, size in bad.items()]):
            report.problems.append((failed.key, str(failed.error)))

    def _packs_of(self, backup: str) -> list[PackInfo]:
        """What the target's own manifest names; nothing on a host that cannot open it."""
        keyring, layout = self._request.keyring, self._layout
        for key in (layout.manifest(backup), layout.manifest_copy(backup)):
            try:
                manifest = parse_manifest(self._target.store.get(key), key, keyring)
            except (DamagedObject, ObjectNotFound, SealError):
                continue
            try:
                return list(manifest.packs().values())
            finally:
                manifest.close()
        return []

    def _found_bad(self) -> list[str]:
        """What checks of the target found bad, and still is."""
        identity = self._request.identity
        if identity is None:
            return []
        repository = Repository(self._target.store, identity, self._request.keyring)
        known = read_checks(repository, self._layout).bad
        return [key for key in sorted(known) if _is_whole(key, self._layout) and self._is_bad(key)]

    def _is_bad(self, key: str) -> bool:
        try:
            sound(self._target.store, key)
        except (DamagedObject, ObjectNotFound):
            return True
        return False

    def _lacking(self, theirs: Sequence[Holdings], ours: Holdings) -> list[str]:
        there = set[str]().union(*(one.backups(self._layout) for one in theirs))
        return sorted(
            backup
            for backup in there
            if self._request.wants(backup) and ours.lacks(self._layout, backup)
        )

    def _copy_wal(self, theirs: Sequence[Holdings], ours: Holdings) -> None:
        found: Sizes = {}
        for one in reversed(theirs):
            found.update(one.wal)
        lacking = (key for key in sorted(found) if key not in ours.wal)
        wanted = [
            Wanted(key, found[key]) for key in lacking if not ours.gave_up(key, self._segment_size)
        ]
        # Histories first: without its history a timeline's segments lead nowhere.
        wanted.sort(key=lambda one: (not one.key.startswith(self._layout.history), one.key))
        self._report.wal_files += len(wanted)
        self._move(wanted, f"copying {len(wanted)} WAL files to {self._target}")

    # -- what the target has given up is not brought back -----------------------------------------

    def _find_segment_size(self, theirs: Sequence[Holdings]) -> int:
        """The system's WAL segment size; the largest there is where it cannot be found out, so that
        no segment seems to lie lower than it does."""
        listed = theirs if self._ours.horizons else ()
        keyring = self._request.keyring
        return segment_size_of(self._source, listed, keyring, default=MAX_SEGMENT_SIZE)

    def _copy_backup(self, backup: str) -> bool:
        """False for one that the target's own policy has left behind."""
        layout, store = self._layout, self._target.store
        data, packs, head = self._read(backup)
        if head is not None:
            horizon = self._ours.horizons.get(head.timeline)
            if horizon is not None and Lsn.parse(head.stop_lsn) <= horizon:
                return False
        if self._packs is None:
            self._packs = sizes_of(store, layout.packs)
        self._check_name(backup, data)
        missing = {p.key(layout) for p in packs if self._packs.get(p.key(layout)) != p.size_bytes}
        cut = sorted(key for key in missing if key in self._packs)
        if cut:
            raise RepositoryError(
                f"{cut[0]} has {self._packs[cut[0]]} bytes in {self._target}, which is not its "
                "size.",
                why="It was damaged or cut off there.",
                remedy="Delete that object there, then run pgkeep copy again.",
            )
        wanted = [Wanted(p.key(layout), p.size_bytes) for p in packs if p.key(layout) in missing]
        self._report.packs += len(wanted)
        if self._request.dry_run:
            self._move(wanted, "")
            return True
        copied = [pack for pack in packs if pack.key(layout) in missing]
        named = {pack.key(layout) for pack in packs}
        with self._guard.pinned(sorted({pack.attempt for pack in copied})):
            self._guard.check(backup, named)
            self._copy_packs(backup, copied)
            for key in (layout.manifest(backup), layout.manifest_copy(backup)):
                self._transfer.put(key, data)
        self._guard.confirm(backup, named)
        return True

    def _copy_packs(self, backup: str, packs: Sequence[PackInfo]) -> None:
        """Returns when they are there, by the target's own listing."""
        layout, store = self._layout, self._target.store
        wanted = [Wanted(pack.key(layout), pack.size_bytes) for pack in packs]
        before = len(self._report.problems)
        self._move(wanted, f"copying backup {backup} to {self._target}")
        if len(self._report.problems) > before:
            raise ObjectNotFound(
                f"{len(self._report.problems) - before} of its packs are in no repository, or "
                "damaged in each."
            )
        for attempt in {pack.attempt for pack in packs}:
            of_attempt = [pack for pack in packs if pack.attempt == attempt]
            for absent in missing_packs(store, layout, of_attempt, attempt=attempt):
                why = "It is not there now, or is cut off"
                raise not_kept(self._target.url, absent.key, why)
        assert self._packs is not None
        self._packs |= {pack.key(layout): pack.size_bytes for pack in packs}

    def _check_name(self, backup: str, data: bytes) -> None:
        """Raise ``RepositoryError`` when a copy of the manifest that is in the target already is
        another backup's."""
        for key in (self._layout.manifest(backup), self._layout.manifest_copy(backup)):
            try:
                found = self._target.store.get(key)
            except ObjectNotFound:
                continue
            if found != data:
                raise _another(backup, self._target)

    def _read(self, backup: str) -> tuple[bytes, list[PackInfo], Head | None]:
        """The manifest's bytes, the packs that it names, and its head if it can be opened."""
        keyring, layout = self._request.keyring, self._layout
        if not keyring.can_read_metadata:
            return self._read_unopened(backup)
        problem: PgkeepError | None = None
        for key in (layout.manifest(backup), layout.manifest_copy(backup)):

            def read(store: Store, key: str = key) -> tuple[bytes, list[PackInfo], Head | None]:
                data = store.get(key)
                manifest = parse_manifest(data, key, keyring)
                try:
                    return data, list(manifest.packs().values()), manifest.head
                finally:
                    manifest.close()

            try:
                return read_sound(self._source, key, read)
            except (ObjectNotFound, DamagedObject) as error:
                problem = problem or error
        raise problem or AssertionError

    def _read_unopened(self, backup: str) -> tuple[bytes, list[PackInfo], Head | None]:
        """As ``_read`` on a host without the metadata key: every pack of the sources counts.

        The manifest was listed before the packs are, so those that it names are among them.
        """
        key = self._layout.manifest(backup)
        data = read_sound(self._source, key, lambda store: sound(store, key))
        packs = []
        for name, size in sizes_of(self._source, self._layout.packs).items():
            attempt, _, number = name.removeprefix(self._layout.packs).partition("/")
            if number.isdecimal():
                packs.append(PackInfo(attempt, int(number), size, b"", b"", b"", b""))
        return data, packs, None

    def _move(self, wanted: Sequence[Wanted], phase: str) -> None:
        if not wanted:
            return
        if self._request.dry_run:
            self._report.objects += len(wanted)
            self._report.bytes += sum(one.size_bytes for one in wanted)
            return
        self._progress.phase(phase)
        self._progress.total(sum(one.size_bytes for one in wanted), len(wanted))
        for failed in self._transfer.copy(wanted):
            self._report.problems.append((failed.key, str(failed.error)))


def _is_whole(key: str, layout: Layout) -> bool:
    """Whether the object carries a hash of its bytes behind them."""
    kinds = (layout.packs, layout.manifests, layout.manifest_copies, layout.wal, layout.history)
    return key.startswith(kinds)


def _another(backup: str, target: Member) -> RepositoryError:
    return RepositoryError(
        f"The backup {backup} in {target} is another one than in the other repositories.",
        why="Both were begun in the same second, by runs that did not know of each other.",
        remedy="Each restores from its own repository. The next backup is in all of them.",
        backup=backup,
    )


def copy_systems(source: Store, target: Store, cluster: str) -> None:
    """Which systems the cluster had, record by record."""
    have = {info.key for info in target.list(systems(cluster))}
    for info in list_numbered(source, systems(cluster)):
        if info.key not in have:
            data = source.get(info.key)
            parse_record(data, info.key, kind="system")
            publish_as_is(target, info.key, data)


def publish_as_is(store: Store, key: str, data: bytes) -> None:
    """Create an object unless it is there. Raises ``RepositoryError`` for another one there."""
    try:
        store.put(key, data, if_absent=True)
    except ObjectExists:
        if store.get(key) != data:
            raise RepositoryError(
                f"{key} in {store.url} is another one than in the other repositories.",
                why="Both were written while they did not know of each other.",
                remedy="See which one is right, and remove the other.",
            ) from None
