"""Which majors are supported, and which of their settings matter to backup and recovery."""

from __future__ import annotations

from pgkeep.errors import UnsupportedVersion

SUPPORTED_MAJORS = (15, 16, 17, 18)

# In the order of the documentation's chapter "Archive Recovery" and "Recovery Target".
RECOVERY_TARGET_SETTINGS = (
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
)
RECOVERY_SETTINGS = (
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    *RECOVERY_TARGET_SETTINGS,
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "recovery_min_apply_delay",
)
STANDBY_SETTINGS = ("primary_conninfo", "primary_slot_name", "promote_trigger_file")
REPLICATION_SETTINGS = (
    "synchronous_standby_names",
    "max_logical_replication_workers",
    "sync_replication_slots",
    "synchronized_standby_slots",
)
ARCHIVE_SETTINGS = ("archive_mode", "archive_command", "archive_library", "archive_timeout")

# A hot standby refuses to start, or pauses, when one of these is lower than on the primary.
HOT_STANDBY_LIMITS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)

_REMOVED_IN = {"promote_trigger_file": 16}
_ADDED_IN: dict[str, int] = {
    "sync_replication_slots": 17,
    "synchronized_standby_slots": 17,
}


def setting_exists(name: str, major: int) -> bool:
    """Whether a setting of those named in this module exists in a major version."""
    return _ADDED_IN.get(name, 0) <= major < _REMOVED_IN.get(name, 1 << 30)


def check_major(major: int, *, force: bool = False) -> int:
    """Return a supported major unchanged.

    Raises UnsupportedVersion for any other, unless ``force`` says that the user asked for it.
    """
    if major in SUPPORTED_MAJORS or force:
        return major
    older = major < SUPPORTED_MAJORS[0]
    raise UnsupportedVersion(
        f"PostgreSQL {major} is not a version that pgkeep was tested with.",
        why=f"Supported are {SUPPORTED_MAJORS[0]} to {SUPPORTED_MAJORS[-1]}"
        + ("; older servers lack the functions that a backup needs." if older else "."),
        remedy=f"Set force_version = {major} (PGKEEP_FORCE_VERSION={major}) to go on all the same, "
        "and prove every backup with a restore.",
        major=major,
    )
