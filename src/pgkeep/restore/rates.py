"""How long a restore will take, from how long the last one took on this host.

Only what was measured is used. A rate is that of one repository and one host: its disk, its network
and its processors together. What was measured on too little says nothing (the fixed costs would be
most of it), and neither does a restore over a directory, which mostly reads; so then there is no
estimate, rather than a made-up one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pgkeep.errors import LocalIOError
from pgkeep.repository.host import write_durably
from pgkeep.units import from_utc_text, to_utc_text

LEAST_BYTES = 64 << 20
_MOST_BYTES = 1 << 16  # of the file


class Measured(NamedTuple):
    """Bytes, and the seconds that they took; nothing is known where either is 0."""

    size_bytes: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Bytes a second, if enough was measured."""
        enough = self.size_bytes >= LEAST_BYTES and self.seconds > 0
        return self.size_bytes / self.seconds if enough else None


class Rates(NamedTuple):
    """What was measured: writing files, copying WAL beforehand, replaying it. ``at`` is when the
    files were written."""

    at: datetime
    files: Measured = Measured()
    wal_copy: Measured = Measured()
    replay: Measured = Measured()

    def updated(self, newer: Rates) -> Rates:
        """What was measured last of each."""
        pairs = zip(newer[1:], self[1:], strict=True)
        kept = [new if new.rate else old for new, old in pairs]
        return Rates(newer.at if newer.files.rate else self.at, *kept)


class Estimate(NamedTuple):
    """Seconds until the directory is complete, and of the recovery after that (None: not known).

    ``rate`` is that of the files, in bytes a second.
    """

    seconds: float
    recovery_seconds: float | None
    rate: float
    measured: datetime

    def as_dict(self) -> dict[str, Any]:
        known = self.recovery_seconds
        return {
            "seconds": round(self.seconds, 1),
            "recovery_seconds": None if known is None else round(known, 1),
            "bytes_per_second": round(self.rate),
            "measured": self.measured,
        }


def estimate(
    rates: Rates | None, *, write_bytes: int, wal_bytes: int, copied: bool
) -> Estimate | None:
    """None where nothing was measured. WAL that was never copied here is taken to be as fast as
    files are, of which it is a small part."""
    if rates is None or (rate := rates.files.rate) is None:
        return None
    seconds = write_bytes / rate
    if copied:
        seconds += wal_bytes / (rates.wal_copy.rate or rate)
    replay = rates.replay.rate
    return Estimate(seconds, wal_bytes / replay if replay else None, rate, rates.at)


def read_rates(path: Path) -> Rates | None:
    """None where there are none, or none that can be read: they are worth no error."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
        measured = [
            Measured(int(found[name]["bytes"]), float(found[name]["seconds"]))
            for name in ("files", "wal_copy", "replay")
        ]
        return Rates(from_utc_text(found["at"]), *measured)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def remember_rates(path: Path, newer: Rates) -> None:
    """Write what was measured, beside what an earlier restore says of the rest.

    Raises ``LocalIOError``. Whatever was measured on too little changes nothing.
    """
    older = read_rates(path) or Rates(newer.at)
    kept = older.updated(newer)
    if kept == older:
        return
    document = {"at": to_utc_text(kept.at)} | {
        name: {"bytes": one.size_bytes, "seconds": round(one.seconds, 3)}
        for name, one in zip(("files", "wal_copy", "replay"), kept[1:], strict=True)
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalIOError(
            f"{path.parent} cannot be made.", why=f"{error.strerror}.", remedy="Set PGKEEP_STATE."
        ) from error
    write_durably(path, json.dumps(document, indent=1).encode() + b"\n")


def now() -> datetime:
    """When something was measured."""
    return datetime.now(UTC)
