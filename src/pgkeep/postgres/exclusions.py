"""What a base backup leaves out, and why that is safe.

The lists are those of ``src/backend/backup/basebackup.c`` (``excludeDirContents``,
``excludeFiles``, ``sendDir``), so that our backups hold what ``pg_basebackup``'s hold; the
server's ``log`` directory, which it includes, is included. We add what must never come back
in a restored directory: signal files, leftovers of earlier restores, ``current_logfiles``,
which names files of another run, and our own marks.

Two differences are deliberate. ``basebackup.c`` skips ``pg_notify`` and its like at any depth;
we do so only at the top, where they mean something. And a tablespace's directory is entered
only below its ``PG_<major>_<catalog version>`` folder, which is the caller's to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.postgres.relation import RelationFile as RelationFile
from pgkeep.postgres.relation import (
    is_database_directory,
    is_relation_directory,
    is_temporary_relation,
    parse_relation_name,
)
from pgkeep.postgres.relation import parse_relation_path as parse_relation_path

if TYPE_CHECKING:
    from collections.abc import Iterable

WAL_DIRECTORY = "pg_wal"
COPY_MARK = "pgkeep.copy"
COPIED_WAL_DIRECTORY = "pgkeep_wal"

_EMPTIED = frozenset(
    {
        WAL_DIRECTORY,
        "pg_dynshmem",  # removed at start
        "pg_notify",  # removed at start
        "pg_replslot",  # slots of another server would hold back WAL and vacuum for ever
        "pg_serial",  # not needed
        "pg_snapshots",  # removed at start
        "pg_stat_tmp",  # temporary statistics, extensions' too
        "pg_subtrans",  # zeroed at start
    }
)
_AT_ANY_DEPTH = frozenset(
    {
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
        ".DS_Store",
    }
)
_AT_TOP = frozenset(
    {
        "backup_label.old",
        "tablespace_map.old",
        "recovery.signal",
        "standby.signal",
        "current_logfiles",
        COPY_MARK,
        COPIED_WAL_DIRECTORY,
    }
)
_OURS = "pgkeep."  # what a restore added for its own recovery
_TEMPORARY_PREFIX = "pgsql_tmp"  # PG_TEMP_FILE_PREFIX, files and folders alike
_RELATION_CACHE = "pg_internal.init"  # RELCACHE_INIT_FILENAME, with any suffix


class Exclusions:
    """Judges paths relative to the data directory, written with slashes (``base/5/16384``).

    Tablespaces appear under ``pg_tblspc/<oid>/PG_…``.
    """

    def excludes_contents(self, relative_dir: str) -> bool:
        """Whether the directory is kept, with its owner and mode, but empty."""
        return relative_dir in _EMPTIED

    def excludes_file(self, relative_path: str) -> bool:
        """Whether a file, or a directory with all below it, is left out without a trace.

        Unlogged relations need a look at their neighbours: see :meth:`unlogged`.
        """
        parent, _, name = relative_path.rpartition("/")
        if parent and parent.partition("/")[0] in _EMPTIED:
            return True
        if name in _AT_ANY_DEPTH or name.startswith((_TEMPORARY_PREFIX, _RELATION_CACHE)):
            return True
        if not parent:
            return name in _AT_TOP or name.startswith(_OURS) or name.endswith(".auto.conf.tmp")
        return is_temporary_relation(name) and is_database_directory(parent)

    def unlogged(self, names: Iterable[str]) -> set[str]:
        """Of the names in one relation directory, those of unlogged relations to leave out.

        Everything but the init fork goes, for recovery makes it anew from there.
        """
        parsed = [(name, parse_relation_name(name)) for name in names]
        unlogged = {file.relfilenode for _, file in parsed if file and file.fork == "init"}
        return {
            name
            for name, file in parsed
            if file and file.fork != "init" and file.relfilenode in unlogged
        }

    def may_hold_unlogged(self, relative_dir: str) -> bool:
        """Whether :meth:`unlogged` is to be asked about this directory."""
        return is_relation_directory(relative_dir)


def empty_directories(major: int) -> tuple[str, ...]:
    """Directories that a restored cluster must have although a backup has nothing in them."""
    inside_wal = [f"{WAL_DIRECTORY}/archive_status"]
    if major >= 17:
        inside_wal.append(f"{WAL_DIRECTORY}/summaries")
    return (*sorted(_EMPTIED), *inside_wal)
