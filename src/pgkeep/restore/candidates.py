"""The backups that a restore may begin with, and the timeline that it is to follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from pgkeep.errors import NoSuchBackup, TargetNotReachable
from pgkeep.postgres.history import TimelineHistory
from pgkeep.repository.catalogue import Backup, Catalogue, is_complete, is_good
from pgkeep.repository.wal_inventory import WalInventory
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.refusal import no_backup
from pgkeep.restore.search import WalReader
from pgkeep.restore.timeline import choose_timeline


def readable_backups(catalogue: Catalogue, named: str | None) -> Sequence[Backup]:
    """The backups to choose from. One that cannot be read is an error, since another one would be
    chosen without a word; unless one that can be read is named.

    Raises ``DamagedObject`` and the like, with those that can be named.
    """
    unreadable = {problem.backup for problem in catalogue.problems}
    if unreadable and (named is None or named in unreadable):
        error = catalogue.problems[-1].error
        if catalogue.backups:
            near = ", ".join(backup.id for backup in catalogue.backups[-3:])
            others = f"Other backups can be restored by their names, with --backup: {near}."
            error.remedy = " ".join(filter(None, (error.remedy, others)))
        raise error
    return catalogue.backups


class Candidates:
    """Those of ``backups`` that the options and the stored WAL leave.

    ``warnings`` and ``notes`` tell what was passed over, and why, once it was asked for.
    """

    def __init__(
        self,
        reader: WalReader,
        inventory: WalInventory,
        backups: Sequence[Backup],
        options: RestoreOptions,
    ) -> None:
        self._reader, self._inventory = reader, inventory
        self._options, self._target = options, options.target.target
        self._backups = sorted(backups, key=lambda backup: backup.ended)
        self._named = self._find_named()
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def _find_named(self) -> Backup | None:
        wanted = self._options.backup
        if wanted is None:
            return None
        for backup in self._backups:
            if backup.id == wanted:
                return backup
        near = ", ".join(backup.id for backup in self._backups[-3:])
        raise NoSuchBackup(
            f"There is no backup {wanted!r} in the repository.",
            remedy=f"pgkeep list shows what there is; the newest: {near}. One in the trash (pgkeep "
            "list --deleted) counts again after pgkeep undelete.",
            backup=wanted,
        )

    def timeline(self) -> int:
        """The one that was asked for, else the one on which the newest backup is gone on from.

        Raises ``TargetNotReachable``, ``AmbiguousTimeline``.
        """
        asked = self._options.timeline
        if asked is not None:
            known = {*self._inventory.segments, *self._inventory.histories, 1}
            known |= {backup.head.timeline for backup in self._backups}
            if asked not in known:
                raise TargetNotReachable(
                    f"Nothing of timeline {asked} is in the repository.",
                    remedy=f"Known are {', '.join(str(number) for number in sorted(known))}.",
                )
            return asked
        newest = self._named or self._backups[-1]
        if self._target.kind == "immediate":
            return newest.head.timeline
        return choose_timeline(self._reader, self._inventory, newest)

    def usable(self, history: TimelineHistory) -> list[Backup]:
        """Backups on the way to a timeline whose own WAL is complete, oldest first.

        Along one way the WAL says which is older. The clock of the server may have been set.
        """
        on_way = [
            backup
            for backup in sorted(self._backups, key=lambda backup: (backup.stop_lsn, backup.ended))
            if history.contains(backup.head.timeline, backup.stop_lsn)
        ]
        if self._named is not None:
            on_way = [self._named] if self._named in on_way else self._not_on(history, self._named)
        complete = [backup for backup in on_way if is_complete(backup, self._inventory)]
        for backup in on_way:
            if backup not in complete:
                self._skip_incomplete(backup)
        if not complete:
            why = f"no backup leads to timeline {int(history.timeline)} with all its WAL"
            raise no_backup(self._target, why)
        return complete

    def _skip_incomplete(self, backup: Backup) -> None:
        text = (
            f"Backup {backup.id} cannot be used: WAL between its start {backup.head.start_lsn} and "
            f"its end {backup.head.stop_lsn} is missing."
        )
        if self._named is not None:
            raise TargetNotReachable(text, remedy="Leave --backup out, and another one is chosen.")
        self.warnings.append(text)

    def _not_on(self, history: TimelineHistory, backup: Backup) -> NoReturn:
        raise TargetNotReachable(
            f"Backup {backup.id} is not on the way to timeline {int(history.timeline)}.",
            why=f"It ended at {backup.head.stop_lsn} on timeline {backup.head.timeline}.",
            remedy=f"Give --timeline {backup.head.timeline}, or leave --backup out.",
        )

    def pick(self, candidates: Sequence[Backup]) -> Backup:
        """The newest good one; the newest if none is good."""
        good = [backup for backup in candidates if is_good(backup, self._inventory)]
        picked = good[-1] if good else candidates[-1]
        if picked is not candidates[-1]:
            self.notes.append(
                f"backup {candidates[-1].id} is newer, and was passed over for its damaged pages"
            )
        return picked
