"""Copying a backup into a repository in which a sweep may run.

As a backup does (``backup/pins.py``): pins cover the packs before they are there, and what is
condemned is looked at before they are taken and once more when the manifest is created. A sweep
that had condemned some before keeps the backup out until it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pgkeep.errors import RepositoryError
from pgkeep.mirror.member import Member
from pgkeep.repository.condemned import condemned_keys
from pgkeep.repository.layout import Layout
from pgkeep.repository.pin_life import renewing
from pgkeep.repository.record import build_record, publish
from pgkeep.units import to_utc_text


class Guard:
    """One target and system. ``by`` is the writer of records."""

    def __init__(self, target: Member, layout: Layout, by: Mapping[str, Any]) -> None:
        self._target, self._layout, self._by = target, layout, by

    @contextmanager
    def pinned(self, attempts: Sequence[str]) -> Iterator[None]:
        """While the block runs, pins cover all packs whose keys bear the attempts' ids. They die by
        themselves."""
        self._pin(attempts)
        with renewing(lambda: self._pin(attempts)):
            yield

    def _pin(self, attempts: Sequence[str]) -> None:
        for attempt in attempts:
            members = {"attempt": attempt, "purpose": "copy", "backup": None}
            record = self._record("pin", {**members, "copier": os.urandom(8).hex()})
            prefix = self._layout.pin(attempt, 0).rpartition("/")[0] + "/"
            publish(self._target.store, prefix, lambda _, record=record: record)  # type: ignore[misc]

    def check(self, backup: str, named: Collection[str]) -> None:
        """Raise ``RepositoryError`` when any of these packs is condemned."""
        if self._is_condemned(named):
            raise RepositoryError(
                f"A sweep is about to delete packs of {backup} in {self._target}.",
                remedy="Run pgkeep copy again when the sweep has ended.",
            )

    def confirm(self, backup: str, named: Collection[str]) -> None:
        """After the manifest is there. Condemned meanwhile, the backup is taken back, and
        ``RepositoryError`` is raised."""
        if not self._is_condemned(named):
            return
        reason = "a sweep has condemned packs of it"
        record = self._record("void", {"backup": backup, "reason": reason})
        self._target.store.put(self._layout.void(backup), record, if_absent=True)
        raise RepositoryError(
            f"The copy of {backup} in {self._target} does not count, and was taken back.",
            why=f"While it was made, {reason}.",
            remedy="Run pgkeep copy again when the sweep has ended.",
        )

    def _is_condemned(self, named: Collection[str]) -> bool:
        return not condemned_keys(self._target.store, self._layout).isdisjoint(named)

    def _record(self, kind: str, members: dict[str, Any]) -> bytes:
        return build_record(kind, members, at=to_utc_text(datetime.now(UTC)), by=dict(self._by))
