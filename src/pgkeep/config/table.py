"""The table of all settings: parsing, ``pgkeep config`` and the reference page follow from it."""

from __future__ import annotations

from pgkeep.config.cores import available_cores
from pgkeep.config.dump_table import DUMP_SETTINGS
from pgkeep.config.keeping import DEFAULT_KEEP
from pgkeep.config.setting import PREFIX, Setting
from pgkeep.config.store_table import STORE_SETTINGS

__all__ = ["BY_NAME", "DEFAULT_CONFIG_FILE", "DEFAULT_STATE", "PREFIX", "SETTINGS", "Setting"]

DEFAULT_CONFIG_FILE = "/etc/pgkeep/pgkeep.toml"
DEFAULT_STATE = "/var/lib/pgkeep"

KEEP_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "keep",
        "policy",
        DEFAULT_KEEP,
        "What is kept: a window of days, a least number of good backups, and the last backup of "
        "so many days, weeks, months and years.",
        "14 days, 3 backups, 30 daily, 12 monthly",
        shown_default=f"`{DEFAULT_KEEP}`",
    ),
    Setting(
        "keep_grace",
        "seconds",
        86400,
        "How long a backup that is given up stays in the trash, from which pgkeep undelete brings "
        "it back.",
        "3d",
        shown_default="1 day",
    ),
    Setting(
        "object_lock_days",
        "count",
        None,
        "After each backup, lock what it needs for at least so many days, in a bucket at s3:// "
        "that has Object Lock; needs pgkeep[aws].",
        "30",
        shown_default="none",
    ),
)
"""What may be said of each repository."""

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "repo",
        "text",
        None,
        "URL of the repository, where backups and WAL are kept: file:///…, s3://bucket/prefix, "
        "gs://bucket/prefix or az://container/prefix.",
        "file:///srv/backups",
    ),
    Setting(
        "copies",
        "copies",
        "all",
        "How many repositories, of this one and its mirrors, must have what is reported as done: "
        "all, or a number.",
        "1",
    ),
    Setting(
        "cluster",
        "text",
        "main",
        "Name of this cluster in the repository. A repository holds many clusters.",
        "orders",
    ),
    Setting(
        "identity",
        "key",
        None,
        "Secret key that opens a sealed repository: an age identity file, or its text. "
        "Needed to restore, not to make backups.",
        "/root/pgkeep-identity.txt",
        secret=True,
    ),
    Setting(
        "passphrase",
        "text",
        None,
        "Passphrase that opens a repository which was sealed with one.",
        "",
        secret=True,
    ),
    Setting(
        "host_key",
        "text",
        None,
        "This host's own key, as pgkeep init made it, where there is no state directory to keep "
        "it in (a container).",
        "",
        secret=True,
    ),
    Setting(
        "pgdata",
        "path",
        None,
        "The data directory as pgkeep sees it, when that is another path than the server's "
        "data_directory.",
        "/var/lib/postgresql/data",
        shown_default="what the server says",
    ),
    Setting(
        "primary",
        "conninfo",
        None,
        "Where a backup of a standby finds the primary, which it has end its last WAL segment: a "
        "connection string of libpq, without a password. The role may call pg_switch_wal() there.",
        "host=db1,db2 target_session_attrs=read-write",
        shown_default="none: the segment is waited for",
    ),
    Setting(
        "state",
        "path",
        None,
        "Directory for this host's keys and for what it remembers of repositories.",
        "/var/lib/pgkeep",
        shown_default=f"`{DEFAULT_STATE}` if it exists, else `.local/state/pgkeep` in the home of "
        "the data directory's owner, else `/var/tmp/pgkeep-<uid>`",
    ),
    Setting(
        "jobs",
        "count",
        available_cores,
        "How many workers a backup or a restore uses.",
        "4",
        shown_default="the cores that this process may use",
    ),
    Setting(
        "level",
        "level",
        1,
        "zstd compression level, 1 to 19. Higher is smaller and slower.",
        "3",
    ),
    Setting(
        "rate_limit",
        "size",
        None,
        "The most bytes a second that a backup reads from the data directory.",
        "200MiB",
        shown_default="none",
    ),
    Setting(
        "nice",
        "switch",
        True,
        "Run backups at low processor and disk priority, so that the server goes first.",
        "off",
        shown_default="on",
    ),
    Setting(
        "read_all_every",
        "count",
        7,
        "Every how many backups all files are read, and not only those that may have changed.",
        "1",
    ),
    Setting(
        "archive_timeout",
        "seconds",
        60,
        "How long a backup waits for the server to archive WAL before it gives up.",
        "5min",
        shown_default="60 s",
    ),
    Setting(
        "force_version",
        "text",
        None,
        "A PostgreSQL major version that pgkeep was not tested with, to be used all the same.",
        "19",
    ),
    *KEEP_SETTINGS,
    Setting(
        "expire_after_backup",
        "switch",
        True,
        "Whether a backup that was made is followed by what pgkeep expire does, where this host "
        "may delete.",
        "off",
        shown_default="on",
    ),
    Setting(
        "prices",
        "prices",
        None,
        "What the store asks for: a GiB-month of storage, a thousand writes, a thousand reads, a "
        "GiB that leaves it; for pgkeep list --cost.",
        "0.023 storage, 0.005 writes, 0.0004 reads, 0.09 out, USD",
        shown_default="none",
    ),
    *DUMP_SETTINGS,
    *STORE_SETTINGS,
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
