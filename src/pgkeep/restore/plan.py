"""What a restore will do: found out first, shown by ``--dry-run``, executed by the real run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pgkeep.postgres.recovery import Action, RecoveryTarget, render_target_value
from pgkeep.postgres.standby import Standby
from pgkeep.repository.catalogue import Backup
from pgkeep.repository.wal_plan import WalPlan
from pgkeep.restore.databases import Database, Selection
from pgkeep.restore.rates import Estimate
from pgkeep.restore.target import AskedTarget, latest
from pgkeep.units import show_moment

WalMode = Literal["fetch", "copied"]


@dataclass(frozen=True)
class RestoreOptions:
    """What the user wants. ``into`` is absolute. ``owner`` is a user's name.

    ``tablespaces`` maps a tablespace's OID or name to the directory it shall have. A ``standby``
    goes on recovering; it has no target and no action. With ``delta`` the directory may hold the
    cluster already, and what is the same stays. Databases are named as the backup knows them.
    """

    into: Path
    target: AskedTarget = field(default_factory=latest)
    timeline: int | None = None
    backup: str | None = None
    action: Action = "promote"
    continue_archiving: bool = False
    wal: WalMode | None = None
    jobs: int = 2
    owner: str | None = None
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    standby: Standby | None = None
    delta: bool = False
    only_databases: tuple[str, ...] = ()
    exclude_databases: tuple[str, ...] = ()
    check: Literal["quick", "full"] | None = None

    @property
    def selective(self) -> bool:
        """Whether some databases may be left out."""
        return bool(self.only_databases or self.exclude_databases)

    @property
    def is_copy(self) -> bool:
        """Whether what is restored must keep out of the way of the original."""
        return not self.continue_archiving and self.standby is None


@dataclass(frozen=True)
class FetchAccess:
    """How the restored server can call pgkeep: the program by absolute paths, and the settings that
    go into its configuration file (names as in the TOML file).

    ``obstacle`` says why it cannot: a secret that exists only as a value, for example. ``mirrors``
    are the settings of further repositories, by name.
    """

    program: tuple[str, ...]
    settings: Mapping[str, str]
    identity_file: Path | None = None
    obstacle: str | None = None
    mirrors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Owner(NamedTuple):
    """Whose the restored files will be. ``change`` is whether that takes a chown."""

    uid: int
    gid: int
    name: str
    change: bool


class PlacedTablespace(NamedTuple):
    """A tablespace, where it was and where it will be."""

    oid: int
    name: str
    was: str
    location: Path


@dataclass(frozen=True)
class Resolution:
    """From which backup, along which timeline, to where.

    ``target`` is what will be written; it differs from what was asked where stored WAL ends before
    the moment asked for. ``reaches`` is the moment of the last transaction that will be there, as
    far as known.
    """

    backup: Backup
    timeline: int
    target: RecoveryTarget
    wal: WalPlan
    wal_files: int
    end: str
    reaches: datetime | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestorePlan:
    """All of it. Sizes in bytes; ``wal_bytes`` is that of the plain segments."""

    options: RestoreOptions
    resolution: Resolution
    owner: Owner
    tablespaces: tuple[PlacedTablespace, ...]
    wal_mode: WalMode
    wal_mode_reason: str
    wal_bytes: int
    free_bytes: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    over: bool = False
    """Whether something stands there that is compared with the backup."""
    goes_on: bool = False
    """Whether that is a restore which was broken off, and nothing else."""
    estimate: Estimate | None = None
    """None where nothing like it was measured on this host."""
    databases: Selection | None = None
    """None where all are restored."""

    @property
    def left_out(self) -> tuple[Database, ...]:
        return self.databases.left_out if self.databases is not None else ()

    @property
    def write_bytes(self) -> int:
        left_out = sum(one.size_bytes for one in self.left_out)
        return self.resolution.backup.head.database_bytes - left_out

    @property
    def stored_bytes(self) -> int:
        return self.resolution.backup.head.stored_bytes

    def as_dict(self) -> dict[str, Any]:
        """The plan as fields, for ``--json``."""
        resolution, head = self.resolution, self.resolution.backup.head
        return {
            "into": str(self.options.into),
            "backup": head.backup,
            "backup_kind": head.kind,
            "backup_ended": head.ended,
            "postgres": head.postgres,
            "timeline": resolution.timeline,
            "asked": describe_target(self.options.target.target),
            "target": {
                "kind": resolution.target.kind,
                "value": render_target_value(resolution.target),
                "inclusive": resolution.target.inclusive,
            },
            "action": None if self.options.standby else self.options.action,
            "standby": None
            if self.options.standby is None
            else {"primary": self.options.standby.primary, "slot": self.options.standby.slot},
            "reaches": resolution.reaches,
            "wal": [str(part) for part in resolution.wal.ranges],
            "wal_files": resolution.wal_files,
            "wal_bytes": self.wal_bytes,
            "wal_mode": self.wal_mode,
            "wal_mode_reason": self.wal_mode_reason,
            "write_bytes": self.write_bytes,
            "stored_bytes": self.stored_bytes,
            "free_bytes": self.free_bytes,
            "estimate": None if self.estimate is None else self.estimate.as_dict(),
            "owner": self.owner.name,
            "tablespaces": [
                {"oid": t.oid, "name": t.name, "was": t.was, "location": str(t.location)}
                for t in self.tablespaces
            ],
            "copy": self.options.is_copy,
            "check": self.options.check,
            "delta": self.over,
            "goes_on": self.goes_on,
            "databases_left_out": [
                {"oid": one.oid, "name": one.name, "size_bytes": one.size_bytes}
                for one in self.left_out
            ],
            "notes": [*self.notes, *resolution.notes],
            "warnings": [*self.warnings, *resolution.warnings],
        }


def describe_target(target: RecoveryTarget) -> str:
    """A target as people say it."""
    before = "" if target.inclusive else "just before "
    if target.kind == "time" and isinstance(target.value, datetime):
        return before + show_moment_exactly(target.value)
    if target.kind == "lsn":
        return f"{before}WAL position {render_target_value(target)}"
    if target.kind == "xid":
        return f"{before}the end of transaction {target.value}"
    if target.kind == "name":
        return f"the restore point {target.value!r}"
    return "the first consistent moment" if target.kind == "immediate" else "the end of stored WAL"


def show_moment_exactly(moment: datetime) -> str:
    """As ``show_moment``, with the fraction of the second if there is one."""
    text = show_moment(moment)
    if not moment.microsecond:
        return text
    head, _, zone = text.rpartition(" ")
    return f"{head}.{moment.microsecond:06d}".rstrip("0") + f" {zone}"
