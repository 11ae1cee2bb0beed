"""What makes the restored directory recover to its target, and then stay out of everybody's way.

The settings go into ``postgresql.auto.conf``, which the server reads last: whatever the original's
configuration says, these win. What stood there before is kept in ``pgkeep.adopt.conf``, for the
day on which the copy is to become the original.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgkeep.postgres.conf import parse_conf, remove_recovery_settings, set_settings
from pgkeep.postgres.control import ControlFile
from pgkeep.postgres.exclusions import COPIED_WAL_DIRECTORY, COPY_MARK
from pgkeep.postgres.recovery import copy_settings, raised_limits, recovery_settings
from pgkeep.postgres.standby import standby_settings
from pgkeep.restore.commands import ADOPT_CONF
from pgkeep.restore.databases import Database
from pgkeep.restore.extras import Extras
from pgkeep.restore.plan import FetchAccess, RestorePlan

AUTO_CONF = "postgresql.auto.conf"
FETCH_CONFIG = "pgkeep.restore.toml"
FETCH_STATE = "pgkeep.state"
LIST_FILE = "list"

COPIED_RESTORE_COMMAND = (
    f"grep -qxF %f {COPIED_WAL_DIRECTORY}/{LIST_FILE}; "
    f"case $? in 0) cp {COPIED_WAL_DIRECTORY}/%f %p || exit 200;; 1) exit 1;; *) exit 200;; esac"
)
ABSENT_EXIT = 100
COPIED_END_COMMAND = f"rm -rf {COPIED_WAL_DIRECTORY}"
FETCH_END_COMMAND = f"rm -rf {FETCH_CONFIG} {FETCH_STATE}"
DROP_FILE = "pgkeep.drop.sql"

# WAL refers to pages that a database which is left out does not have: a VACUUM marks a page as
# all-visible without an image of it where neither checksums nor wal_log_hints are on, a hash index
# locks a bucket. The server takes that for damage and stops, unless it is told not to.
_IGNORE = "ignore_invalid_pages"
_STOP_IGNORING = (
    f"grep -v ^{_IGNORE} {AUTO_CONF} > pgkeep.new && sync pgkeep.new && mv pgkeep.new {AUTO_CONF}"
)

# What the server assumes where the configuration is silent (guc_tables.c).
_DEFAULT_LIMITS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}


def fetch_command(into: Path, access: FetchAccess, plan: RestorePlan) -> str:
    """The restore command that calls pgkeep, as it stands in the setting (percent signs double).

    PostgreSQL takes any code from 1 to 125 for "not in the archive" and ends recovery. A Python
    that fails to start says 1, and a shell that does not find it 127. So pgkeep says "absent" with
    a code of its own, and all that is not success becomes 200, which stops the server instead.

    A standby asks again for what it did not get. To it nothing but success is ever said in any
    other way than "not now", and what it asks for is no matter of a plan.
    """
    words = [*access.program, "--config", str(into / FETCH_CONFIG), "wal-fetch"]
    quoted = " ".join(shlex.quote(word) for word in words).replace("%", "%%")
    if plan.options.standby is not None:
        return f"{quoted} %f %p; case $? in 0) exit 0;; *) exit 1;; esac"
    return (
        f"{quoted} %f %p --plan {plan.resolution.wal} --absent-exit={ABSENT_EXIT}; "
        f"case $? in 0) exit 0;; {ABSENT_EXIT}) exit 1;; *) exit 200;; esac"
    )


def write_fetch_config(extras: Extras, access: FetchAccess) -> None:
    """The 0600 file that the restore command names."""
    values = {**access.settings, "state": str(extras.into / FETCH_STATE)}
    if access.identity_file is not None:
        values["identity"] = str(access.identity_file)
    lines = ["# Written by pgkeep restore, for the restore_command of this directory alone."]
    lines += [f"{name} = {toml_text(value)}" for name, value in values.items()]
    for mirror, given in access.mirrors.items():
        lines += ["", f"[mirrors.{mirror}]"]
        lines += [f"{name} = {toml_text(value)}" for name, value in given.items()]
    extras.write_text(FETCH_CONFIG, "\n".join(lines) + "\n")


def toml_text(value: str) -> str:
    """A TOML basic string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_settings(
    extras: Extras, plan: RestorePlan, *, control: ControlFile, commands: tuple[str, str]
) -> dict[str, str]:
    """Rewrite ``postgresql.auto.conf`` and ask for recovery; returns all settings written.

    ``commands`` are the restore and the recovery-end command. What cannot hold in a copy is kept
    in ``pgkeep.adopt.conf``.
    """
    major = plan.resolution.backup.head.postgres_major
    before = extras.read(AUTO_CONF) or ""
    settings = dict(_recovery(plan, commands))
    copy = plan.options.is_copy
    if copy:
        settings |= dict(copy_settings(major))
    if plan.left_out:
        settings[_IGNORE] = "on"
        settings["recovery_end_command"] = f"{commands[1]}; {_STOP_IGNORING}"
    settings |= dict(raised_limits(control, _configured_limits(extras, before)))
    if _has_tablespace_in_place(extras.into):
        # Recovery ends in a panic where a tablespace is no link (CheckTablespaceDirectory).
        settings["allow_in_place_tablespaces"] = "on"
    extras.write_text(AUTO_CONF, set_settings(remove_recovery_settings(before), settings))
    standby = plan.options.standby is not None
    extras.write("standby.signal" if standby else "recovery.signal", b"")
    other = "recovery.signal" if standby else "standby.signal"
    for stale in (other, "postmaster.pid", "postmaster.opts"):
        extras.forget(stale)
    if copy:
        extras.write_text(ADOPT_CONF, adopt_conf(before))
    return settings


def _has_tablespace_in_place(into: Path) -> bool:
    spaces = into / "pg_tblspc"
    return spaces.is_dir() and any(
        path.name.isdecimal() and not path.is_symlink() for path in spaces.iterdir()
    )


def _recovery(plan: RestorePlan, commands: tuple[str, str]) -> list[tuple[str, str]]:
    options = plan.options
    if options.standby is not None:
        return standby_settings(
            options.standby,
            options.timeline,
            restore_command=commands[0],
            recovery_end_command=commands[1],
        )
    return recovery_settings(
        plan.resolution.target,
        plan.resolution.timeline,
        restore_command=commands[0],
        action=options.action,
        recovery_end_command=commands[1],
    )


def adopt_conf(before: str) -> str:
    """``postgresql.auto.conf`` as the original had it, but for what steers a recovery."""
    return (
        "# Becomes postgresql.auto.conf when this restored copy is made the original; see the\n"
        "# file pgkeep.copy beside this one. What ALTER SYSTEM set in the copy is not in it.\n"
        + remove_recovery_settings(before)
    )


def write_copy_mark(extras: Extras, facts: Mapping[str, Any], commands: Sequence[str]) -> None:
    """``pgkeep.copy``: on it ``wal-push`` and ``backup`` refuse."""
    document = {
        "pgkeep": 1,
        **facts,
        "meaning": "This data directory is a restored copy: it archives nothing, and pgkeep "
        "refuses to archive or back it up, since the original may be alive.",
        "to_make_it_the_original": list(commands),
    }
    extras.write_text(COPY_MARK, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_drop_file(extras: Extras, databases: Sequence[Database]) -> None:
    """``pgkeep.drop.sql``: drops what was left out, here and nowhere else.

    The original has databases of the same names and OIDs, so the first thing that it asks is
    whether the server works in the directory in which this very file lies.
    """
    oids = ", ".join(str(one.oid) for one in databases)
    # psql ends a comment at any kind of line end, and runs what follows.
    names = ", ".join(" ".join(one.name.split()) for one in databases)
    extras.write_text(
        DROP_FILE,
        f"-- Written by pgkeep restore. These databases were left out and cannot be used: {names}\n"
        f"SELECT (pg_stat_file('{DROP_FILE}', true)).size IS NOT NULL AS here \\gset\n"
        "\\if :here\n"
        "SELECT format('DROP DATABASE %I', datname) FROM pg_database\n"
        f"WHERE oid IN ({oids}) AND NOT datistemplate \\gexec\n"
        "\\else\n"
        "\\warn This server does not work in the directory of this file. Nothing was dropped.\n"
        "\\endif\n",
    )


def _configured_limits(extras: Extras, auto_conf: str) -> dict[str, int]:
    """What the restored configuration gives for the limits that a hot standby compares."""
    found = dict(_DEFAULT_LIMITS)
    text = (extras.read("postgresql.conf") or "") + "\n" + auto_conf
    for name, value in parse_conf(text):
        if name in found and value.strip().isdecimal():
            found[name] = int(value)
    return found
