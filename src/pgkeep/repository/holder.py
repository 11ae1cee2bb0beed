"""Who holds the lease: what its record says, and whether that process can still be there
(format, section 2.7).

A process number alone is no evidence: another host has its own, another container of this host
too, and after a restart of the machine, or long enough, they come back. So a record names the
kernel's boot, the namespace of process numbers and the moment at which the process began. Only
where all of these are ours can we look, and only then is "there is no such process" a positive
answer. Anything else means that we do not know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pgkeep.errors import DamagedObject
from pgkeep.repository.record import member, parse_record
from pgkeep.units import from_utc_text, show_moment

# A lease that says more counts as this: nobody shall keep backups away for days by a number.
LONGEST_SECONDS = 600.0
_T = TypeVar("_T")


class Process(NamedTuple):
    """A process as the kernel of its host knows it; None for what the system does not tell.

    ``start`` is in clock ticks after the boot.
    """

    host: str
    pid: int
    boot: str | None = None
    pid_ns: str | None = None
    start: int | None = None

    def is_gone(self, *, seen_by: Process) -> bool:
        """Whether it has positively ended, as ``seen_by``, a process that runs here, can see."""
        place = (self.host, self.boot, self.pid_ns)
        if place != (seen_by.host, seen_by.boot, seen_by.pid_ns) or None in place:
            return False
        if self.start is None or self.pid <= 0:
            return False
        try:
            # Not only a look into /proc: hidepid hides there what runs as another user.
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        found = _state_and_start(str(self.pid))
        # A zombie has ended, and nobody has asked how.
        return found is not None and (found[0] in ("Z", "X") or found[1] != self.start)


def this_process(host: str) -> Process:
    """The process that asks, on the host of this name."""
    found = _state_and_start("self")
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        pid_ns = str(Path("/proc/self/ns/pid").readlink())
        boot_id = boot.read_text().strip()
    except OSError:
        return Process(host, os.getpid())
    return Process(host, os.getpid(), boot_id, pid_ns, found[1] if found else None)


class Holder(NamedTuple):
    """A lease record. ``token`` is random; ``seconds`` 0 means that the lease was given up."""

    token: str
    attempt: str
    seconds: float
    since: str
    process: Process

    def __str__(self) -> str:
        """For a sentence: ``db-old (process 4711, since 2026-11-20 03:00:00 CET)``."""
        return f"{self.process.host} (process {self.process.pid}{self._since()})"

    def members(self, *, seconds: float, renewals: int) -> dict[str, Any]:
        """The members of the record with which this holder holds for ``seconds``."""
        return {
            "holder": self.token,
            "attempt": self.attempt,
            "purpose": "backup",
            "seconds": seconds,
            "renewals": renewals,
            "since": self.since,
            "boot": self.process.boot,
            "pid_ns": self.process.pid_ns,
            "start": self.process.start,
        }

    def _since(self) -> str:
        try:
            return f", since {show_moment(from_utc_text(self.since))}"
        except (ValueError, OverflowError):
            return ""


def parse_holder(data: bytes, key: str) -> Holder:
    """The lease record stored as ``key``. Raises ``DamagedObject``, ``FormatTooNew``."""
    members = parse_record(data, key, kind="lease")
    writer = members["by"]
    process = Process(
        _optional(writer, "host", str) or "an unknown host",
        _optional(writer, "pid", int) or 0,
        _optional(members, "boot", str),
        _optional(members, "pid_ns", str),
        _optional(members, "start", int),
    )
    return Holder(
        member(members, "holder", str, name=key),
        member(members, "attempt", str, name=key),
        _seconds(members, key),
        _optional(members, "since", str) or members["at"],
        process,
    )


def _seconds(members: Mapping[str, Any], key: str) -> float:
    found = members.get("seconds")
    if isinstance(found, bool) or not isinstance(found, int | float) or not found >= 0:
        raise DamagedObject(f"{key} is damaged: it does not say how long it holds.", object=key)
    return float(min(found, LONGEST_SECONDS))


def _optional(members: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    """Information only: what is missing or malformed is not known."""
    found = members.get(key)
    return found if isinstance(found, kind) and not isinstance(found, bool) else None


def _state_and_start(pid: str) -> tuple[str, int] | None:
    """Fields 3 and 22 of ``/proc/<pid>/stat``; the name before them may hold anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
