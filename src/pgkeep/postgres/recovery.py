"""The settings that make a restored directory recover to a target, and stay harmless.

Two facts of the server decide how they are written:

* At most one of the five ``recovery_target*`` settings may be set, and the check runs as each
  line is applied (``assign_recovery_target*`` in ``xlogrecovery.c``). The restored
  ``postgresql.conf`` may hold any of them from an earlier recovery. So all five are written,
  the unused ones first and empty, the used one last.
* ``recovery_target_timeline`` is ``latest`` by default, which is whatever history file turns up
  in the archive while recovering. We resolve first, so it is always a number.

A restored cluster is a copy of a living one. The copy settings keep it from archiving under
the other's name, from consuming its logical slots, from streaming from its primary, and from
waiting for standbys that it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pgkeep.postgres.settings import (
    HOT_STANDBY_LIMITS,
    RECOVERY_TARGET_SETTINGS,
    setting_exists,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgkeep.postgres.control import ControlFile

TargetKind = Literal["latest", "time", "lsn", "xid", "name", "immediate"]
Action = Literal["promote", "pause", "shutdown"]

_SETTING_OF: dict[str, str] = {
    "time": "recovery_target_time",
    "lsn": "recovery_target_lsn",
    "xid": "recovery_target_xid",
    "name": "recovery_target_name",
    "immediate": "recovery_target",
}


@dataclass(frozen=True)
class RecoveryTarget:
    """Where recovery ends.

    ``value`` is an aware datetime for ``time``, an Lsn for ``lsn``, an int for ``xid``, text
    for ``name``, None for ``latest`` and ``immediate``. ``inclusive`` says whether the target
    itself is still replayed, and means something for time, LSN and transaction only.
    Raises ValueError for a value that does not fit.
    """

    kind: TargetKind
    value: datetime | int | str | None = None
    inclusive: bool = True

    def __post_init__(self) -> None:
        render_target_value(self)


def render_target_value(target: RecoveryTarget) -> str:
    """The target's value as PostgreSQL reads it, the same whatever its ``timezone`` is.

    Raises ValueError for a value that does not fit its kind.
    """
    kind, value = target.kind, target.value
    if kind == "latest" and value is None:
        return ""
    if kind == "immediate" and value is None:
        return "immediate"
    if kind == "time" and isinstance(value, datetime) and value.tzinfo is not None:
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00"
    if kind == "lsn" and isinstance(value, int) and 0 < value < 1 << 64:
        return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"
    if kind == "xid" and isinstance(value, int) and 3 <= value < 1 << 64:
        return str(int(value))
    if kind == "name" and isinstance(value, str) and 0 < len(value.encode()) <= 63:
        return value
    raise ValueError(f"not a target of recovery: {kind} {value!r}")


def recovery_settings(
    target: RecoveryTarget,
    timeline: int,
    *,
    restore_command: str,
    action: Action = "promote",
    recovery_end_command: str = "",
) -> list[tuple[str, str]]:
    """Everything that steers one recovery, in the order in which it must be written."""
    used = _SETTING_OF.get(target.kind)
    unused = [(name, "") for name in RECOVERY_TARGET_SETTINGS if name != used]
    chosen = [] if used is None else [(used, render_target_value(target))]
    return [
        ("restore_command", restore_command),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", recovery_end_command),
        ("recovery_min_apply_delay", "0"),
        *unused,
        *chosen,
        ("recovery_target_inclusive", "on" if target.inclusive else "off"),
        ("recovery_target_timeline", str(int(timeline))),
        ("recovery_target_action", action),
        ("hot_standby", "on"),
    ]


def copy_settings(major: int) -> list[tuple[str, str]]:
    """What keeps a restored cluster from disturbing the one that it is a copy of."""
    settings = [
        ("archive_mode", "off"),
        ("archive_command", ""),
        ("archive_library", ""),
        ("max_logical_replication_workers", "0"),
        ("synchronous_standby_names", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("promote_trigger_file", ""),
        ("sync_replication_slots", "off"),
        ("synchronized_standby_slots", ""),
    ]
    return [(name, value) for name, value in settings if setting_exists(name, major)]


def raised_limits(control: ControlFile, configured: Mapping[str, int]) -> list[tuple[str, str]]:
    """Settings to raise so that a hot standby of this cluster can start.

    ``configured`` is what the restored configuration would give; a limit that it lacks is
    written. The server compares with what the primary had, as recorded in pg_control.
    """
    needed: dict[str, int] = {name: getattr(control, name) for name in HOT_STANDBY_LIMITS}
    return [
        (name, str(value)) for name, value in needed.items() if configured.get(name, -1) < value
    ]
