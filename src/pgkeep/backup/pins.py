"""Being safe from a sweep that runs at the same time (format, sections 2.4 and 11).

The pin is made before the first pack and renewed now and then; while it lives, no sweep condemns
packs of this attempt. A process that was asleep for days may find its pin dead and its packs
condemned: then the backup must not count. All times are the store's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from pgkeep.backup.attempt import Attempt
from pgkeep.errors import BackupError
from pgkeep.repository.layout import Layout
from pgkeep.repository.record import build_record, member, parse_record
from pgkeep.storage.interface import ObjectInfo, Store
from pgkeep.units import to_utc_text

_RENEW_SECONDS = 6 * 3600.0
_LIFE = timedelta(hours=72)


class Pin:
    """The pin of one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._number = 0
        self._renewed = 0.0
        self._newest: ObjectInfo | None = None
        self._died = False

    @property
    def seen_at(self) -> datetime:
        """The store's clock when the pin was last renewed."""
        assert self._newest is not None
        return self._newest.modified

    def renew(self) -> None:
        """Create the pin's next number when the last one is getting old."""
        now = time.monotonic()
        if self._number and now - self._renewed < _RENEW_SECONDS:
            return
        members = {"attempt": self._attempt.id, "purpose": "backup", "backup": None}
        info = self._attempt.repository.store.put(
            self._attempt.layout.pin(self._attempt.id, self._number + 1),
            self._record("pin", members),
            if_absent=True,
        )
        self._note(info)
        self._number, self._renewed, self._newest = self._number + 1, now, info

    def confirm(
        self, backup: str, manifest: ObjectInfo, named: frozenset[str] = frozenset()
    ) -> None:
        """See, after the manifest was created, that no pack of ours may be deleted.

        If one may, a void takes the backup back, and ``BackupError`` is raised.
        """
        self._note(manifest)
        reason = "the pin of its packs had expired" if self._died else None
        if reason is None and self._is_condemned(named):
            reason = "a sweep has condemned packs of it"
        if reason is None:
            return
        layout, store = self._attempt.layout, self._attempt.repository.store
        record = self._record("void", {"backup": backup, "reason": reason})
        store.put(layout.void(backup), record, if_absent=True)
        raise BackupError(
            f"The backup {backup} does not count, and was taken back.",
            why=f"While it was made, {reason}: the process was stopped for days, or slept.",
            remedy="Run the backup again.",
        )

    def _note(self, info: ObjectInfo) -> None:
        if self._newest is not None and info.modified - self._newest.modified >= _LIFE:
            self._died = True

    def _is_condemned(self, named: frozenset[str]) -> bool:
        """Whether the newest record that names a pack of this attempt condemns it."""
        layout = self._attempt.layout
        ours = f"{layout.packs}{self._attempt.id}/"
        condemned = condemned_packs(self._attempt.repository.store, layout)
        return any(key in named or key.startswith(ours) for key in condemned)

    def _record(self, kind: str, members: dict[str, Any]) -> bytes:
        at = to_utc_text(datetime.now(UTC))
        return build_record(kind, members, at=at, by=dict(self._attempt.by()))


def condemned_packs(store: Store, layout: Layout) -> frozenset[str]:
    """The keys that the newest record which names them condemns."""
    condemned: set[str] = set()
    for info in store.list(layout.admin("condemned")):
        kind, keys = _condemned_or_spared(store.get(info.key), info.key)
        condemned = condemned | {*keys} if kind == "condemned" else condemned - {*keys}
    return frozenset(condemned)


def _condemned_or_spared(data: bytes, name: str) -> tuple[str, list[str]]:
    kind = "spared" if b'"type": "spared"' in data.partition(b"\n")[0] else "condemned"
    return kind, member(parse_record(data, name, kind=kind), "keys", list, name=name)
