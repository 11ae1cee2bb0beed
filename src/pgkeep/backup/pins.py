"""Being safe from a sweep that runs at the same time (format, sections 2.4 and 11).

The pin is made before the first pack and renewed now and then; while it lives, no sweep condemns
packs of this attempt, or of the backup that it names: the parent, from which packs are taken over.
A process that was asleep for days may find its pin dead and packs condemned: then the backup must
not count. All times are the store's.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NoReturn

from pgkeep.backup.attempt import Attempt
from pgkeep.errors import BackupError
from pgkeep.repository.condemned import condemned_keys
from pgkeep.repository.pin_life import PIN_LIFE, RENEW_SECONDS
from pgkeep.repository.record import build_record
from pgkeep.storage.interface import ObjectInfo
from pgkeep.units import to_utc_text


class Pin:
    """The pin of one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._parent: str | None = None
        self._number = 0
        self._renewed = 0.0
        self._newest: ObjectInfo | None = None
        self._died = False

    @property
    def seen_at(self) -> datetime:
        """The store's clock when the pin was last renewed."""
        assert self._newest is not None
        return self._newest.modified

    @property
    def parent(self) -> str | None:
        """The backup that the pin names."""
        return self._parent

    def renew(self) -> None:
        """Create the pin's next number when the last one is getting old."""
        now = time.monotonic()
        if not self._number or now - self._renewed >= RENEW_SECONDS:
            self._create(now)

    def work_from(self, parent: str | None) -> None:
        """Cover the packs of ``parent``, too; or, with None, no longer.

        It returns when the pin that says so is stored. Only then look at what is condemned, and
        take the parent only if nothing of it is: that may be deleted any moment, by a sweep that
        has seen no pin. What is condemned later is spared for the pin, or found by ``doubt``.
        """
        if parent != self._parent or not self._number:
            self._parent = parent
            self._create(time.monotonic())

    def doubt(self, backup: str, *, packs: Collection[str]) -> str | None:
        """Why ``packs``, the keys of all that the manifest names, whoever stored them, may be
        deleted; None when they may not. Ask when the manifest has been created."""
        layout, store = self._attempt.layout, self._attempt.repository.store
        self._note(store.head(layout.manifest(backup)))
        if self._died:
            return "the pin of its packs had expired (the process was stopped for days, or slept)"
        if not condemned_keys(store, layout).isdisjoint(packs):
            return "a sweep has condemned packs of it"
        return None

    def take_back(self, backup: str, reason: str) -> NoReturn:
        """Create a void, with which the backup does not exist any more. Raises ``BackupError``."""
        layout, store = self._attempt.layout, self._attempt.repository.store
        record = self._record("void", {"backup": backup, "reason": reason})
        store.put(layout.void(backup), record, if_absent=True)
        raise BackupError(
            f"The backup {backup} does not count, and was taken back.",
            why=f"While it was made, {reason}.",
            remedy="Run the backup again.",
        )

    def _create(self, now: float) -> None:
        members = {"attempt": self._attempt.id, "purpose": "backup", "backup": self._parent}
        store = self._attempt.repository.store
        key = self._attempt.layout.pin(self._attempt.id, self._number + 1)
        store.put(key, self._record("pin", members), if_absent=True)
        info = store.head(key)
        self._note(info)
        self._number, self._renewed, self._newest = self._number + 1, now, info

    def _note(self, info: ObjectInfo) -> None:
        if self._newest is not None and info.modified - self._newest.modified >= PIN_LIFE:
            self._died = True

    def _record(self, kind: str, members: dict[str, Any]) -> bytes:
        at = to_utc_text(datetime.now(UTC))
        return build_record(kind, members, at=at, by=dict(self._attempt.by()))
