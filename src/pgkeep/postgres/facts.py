"""What a server says about itself, as far as backup and restore need to know it.

All of it comes through SQL, as a role with few rights sees it: ``pg_settings`` simply omits
what the role may not read, and such a fact is None here rather than an error. Which rights
give the full picture is in ``privileges``.

The versions of glibc's and ICU's collations are recorded because an index on text built with
one version is silently wrong under another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgkeep.postgres.lsn import Timeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgkeep.postgres.connection import ServerConnection

_SETTINGS = (
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "block_size",
    "cluster_name",
    "config_file",
    "data_checksums",
    "data_directory",
    "dynamic_shared_memory_type",
    "hba_file",
    "huge_pages",
    "ident_file",
    "listen_addresses",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "restore_command",
    "segment_size",
    "server_encoding",
    "shared_memory_size",
    "shared_preload_libraries",
    "unix_socket_directories",
    "wal_block_size",
    "wal_level",
    "wal_segment_size",
)
_BOOTSTRAP_SUPERUSER = 10  # BOOTSTRAP_SUPERUSERID; its name may be any


@dataclass(frozen=True)
class DatabaseFacts:
    """A database and its locale. ``provider`` is ``libc``, ``icu`` or ``builtin``.

    ``recorded_version`` is the collation version the database was made with,
    ``actual_version`` the one of the library now; both None for C and POSIX.
    """

    oid: int
    name: str
    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None
    recorded_version: str | None
    actual_version: str | None
    allows_connections: bool
    is_template: bool = False


@dataclass(frozen=True)
class TablespaceFacts:
    """A tablespace outside the data directory's own two."""

    oid: int
    name: str
    location: str


@dataclass(frozen=True)
class ServerFacts:
    """The server at one moment. Sizes in bytes; None where the role may not read the fact.

    What has a default came later: backups made before do not say it. ``superuser`` is the name of
    the role that ``initdb`` made; ``shared_memory_bytes`` the size of the main segment.
    """

    version_num: int
    version: str
    system_identifier: int
    timeline: Timeline
    is_in_recovery: bool
    data_directory: str | None
    config_file: str | None
    hba_file: str | None
    ident_file: str | None
    block_size: int
    wal_block_size: int
    wal_segment_size: int
    relation_segment_blocks: int
    data_checksums: bool
    wal_level: str
    archive_mode: str
    archive_command: str | None
    archive_library: str | None
    archive_timeout_seconds: int
    restore_command: str | None
    shared_preload_libraries: tuple[str, ...] | None
    cluster_name: str
    host: str
    port: int
    listen_addresses: str | None
    unix_socket_directories: str | None
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_replication_slots: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    libc_collation_version: str | None
    icu_collation_version: str | None
    databases: tuple[DatabaseFacts, ...]
    tablespaces: tuple[TablespaceFacts, ...]
    extensions: tuple[tuple[str, str], ...]
    superuser: str | None = None
    dynamic_shared_memory_type: str | None = None
    huge_pages: str | None = None
    shared_memory_bytes: int | None = None

    @property
    def major(self) -> int:
        return self.version_num // 10000

    @property
    def archives(self) -> bool:
        """Whether the server calls an archive command or library in its present state."""
        wanted = ("always",) if self.is_in_recovery else ("on", "always")
        return self.archive_mode in wanted and bool(self.archive_command or self.archive_library)


def read_facts(connection: ServerConnection) -> ServerFacts:
    """Ask the server for everything in :class:`ServerFacts`. Raises ServerError."""
    settings = _read_settings(connection)
    in_recovery = bool(connection.value("SELECT pg_is_in_recovery()"))
    libc, icu = _library_versions(connection)
    return ServerFacts(
        version_num=connection.version_num,
        version=connection.value("SELECT version()"),
        system_identifier=_system_identifier(connection),
        timeline=current_timeline(connection, in_recovery=in_recovery),
        is_in_recovery=in_recovery,
        host=connection.raw.info.host,
        relation_segment_blocks=int(settings["segment_size"]),
        archive_timeout_seconds=int(settings["archive_timeout"]),
        data_checksums=settings["data_checksums"] == "on",
        libc_collation_version=libc,
        icu_collation_version=icu,
        databases=_databases(connection),
        tablespaces=_tablespaces(connection),
        extensions=_extensions(connection),
        shared_preload_libraries=_split_list(settings.get("shared_preload_libraries")),
        superuser=connection.value(f"SELECT pg_get_userbyid({_BOOTSTRAP_SUPERUSER})"),
        shared_memory_bytes=_megabytes(settings.get("shared_memory_size")),
        **_texts(settings),
        **_numbers(settings),
    )


def current_timeline(connection: ServerConnection, *, in_recovery: bool) -> Timeline:
    """The timeline that the server writes, or replays.

    On a primary the last checkpoint may still name the timeline before a promotion, so the
    name of the file being written is asked; a standby knows only its last restart point, or
    what its receiver streams.
    """
    if in_recovery:
        received = connection.rows("SELECT received_tli FROM pg_stat_wal_receiver")
        if received and received[0][0]:
            return Timeline(received[0][0])
        return Timeline(connection.value("SELECT timeline_id FROM pg_control_checkpoint()"))
    name = connection.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    return Timeline(int(name[:8], 16))


def _read_settings(connection: ServerConnection) -> dict[str, str]:
    rows = connection.rows(
        "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", (list(_SETTINGS),)
    )
    return dict(rows)


def _texts(settings: Mapping[str, str]) -> dict[str, Any]:
    optional = (
        "data_directory",
        "config_file",
        "hba_file",
        "ident_file",
        "archive_command",
        "archive_library",
        "restore_command",
        "listen_addresses",
        "unix_socket_directories",
        "dynamic_shared_memory_type",
        "huge_pages",
    )
    required = ("wal_level", "archive_mode", "cluster_name")
    found: dict[str, Any] = {name: settings.get(name) for name in optional}
    if found["archive_command"] == "(disabled)":  # what pg_settings shows while archive_mode is off
        found["archive_command"] = ""
    return found | {name: settings[name] for name in required}


def _numbers(settings: Mapping[str, str]) -> dict[str, Any]:
    names = (
        "block_size",
        "wal_block_size",
        "wal_segment_size",
        "port",
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_replication_slots",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    )
    return {name: int(settings[name]) for name in names}


def _split_list(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip().strip('"') for part in text.split(",") if part.strip())


def _megabytes(text: str | None) -> int | None:
    return int(text) << 20 if text else None


def _system_identifier(connection: ServerConnection) -> int:
    signed = int(connection.value("SELECT system_identifier FROM pg_control_system()"))
    return signed & 0xFFFFFFFFFFFFFFFF


def _databases(connection: ServerConnection) -> tuple[DatabaseFacts, ...]:
    locale = "datlocale" if connection.major >= 17 else "daticulocale"
    providers = {"c": "libc", "i": "icu", "b": "builtin"}
    rows = connection.rows(
        # One of two fixed names, for the column was renamed in PostgreSQL 17.
        "SELECT oid::int8, datname, pg_encoding_to_char(encoding), datlocprovider::text, "
        "datcollate, datctype, to_jsonb(d) ->> %s, datcollversion, "
        "pg_database_collation_actual_version(oid), datallowconn, "
        "datistemplate FROM pg_database d ORDER BY datname",
        (locale,),
    )
    return tuple(
        DatabaseFacts(
            oid=row[0],
            name=row[1],
            encoding=row[2],
            provider=providers.get(row[3], row[3]),
            collate=row[4],
            ctype=row[5],
            locale=row[6],
            recorded_version=row[7],
            actual_version=row[8],
            allows_connections=row[9],
            is_template=row[10],
        )
        for row in rows
    )


def _tablespaces(connection: ServerConnection) -> tuple[TablespaceFacts, ...]:
    rows = connection.rows(
        "SELECT oid::int8, spcname, pg_tablespace_location(oid) FROM pg_tablespace "
        "WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid"
    )
    return tuple(TablespaceFacts(oid, name, location) for oid, name, location in rows)


def _extensions(connection: ServerConnection) -> tuple[tuple[str, str], ...]:
    rows = connection.rows("SELECT extname, extversion FROM pg_extension ORDER BY extname")
    return tuple((name, version) for name, version in rows)


def _library_versions(connection: ServerConnection) -> tuple[str | None, str | None]:
    """The versions of glibc's and ICU's collations, told by any collation of each."""
    rows = connection.rows(
        "SELECT collprovider::text, pg_collation_actual_version(min(oid::int8)::oid) "
        "FROM pg_collation WHERE collprovider IN ('c', 'i') "
        "AND collname NOT IN ('C', 'POSIX', 'ucs_basic') AND collname NOT ILIKE 'C.%%' "
        "GROUP BY collprovider",
    )
    versions = dict(rows)
    return versions.get("c"), versions.get("i")
