"""The rows of the table of settings that say how dumps are made and for how long they are kept."""

from __future__ import annotations

from pgkeep.config.keeping import DEFAULT_DUMP_KEEP
from pgkeep.config.setting import Setting

DUMP_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "dump_keep",
        "policy",
        DEFAULT_DUMP_KEEP,
        "Which dumps are kept: those of so many days, at least so many, and the last of so many "
        "days, weeks, months and years.",
        "30 days, 3 backups, 12 monthly",
        shown_default=f"`{DEFAULT_DUMP_KEEP.sentence('dumps')}`",
    ),
    Setting(
        "expire_after_dump",
        "switch",
        True,
        "Whether a dump that lacks nothing is followed by what pgkeep dump expire does, where this "
        "host may delete.",
        "off",
        shown_default="on",
    ),
    Setting(
        "dump_include",
        "names",
        (),
        "The databases that are dumped, by shell patterns; without any, all but templates.",
        "orders, shop_*",
        shown_default="all",
    ),
    Setting(
        "dump_exclude",
        "names",
        (),
        "Databases that are not dumped, by shell patterns; wins over what is included.",
        "*_test",
        shown_default="none",
    ),
    Setting(
        "dump_templates",
        "switch",
        False,
        "Whether template databases are dumped, too.",
        "on",
        shown_default="off",
    ),
    Setting(
        "dump_parts",
        "parts",
        None,
        "What is dumped beside databases: all, none, or some of globals (roles, tablespaces), "
        "passwords (of the roles), settings, access (pg_hba, pg_ident).",
        "globals, settings",
        shown_default="all",
    ),
    Setting(
        "dump_format",
        "dump_format",
        "custom",
        "pg_dump's format: custom, directory (several jobs may write it) or plain.",
        "directory",
    ),
    Setting(
        "dump_compression",
        "compression",
        None,
        "As pg_dump's --compress: zstd:3, gzip:6, lz4, none.",
        "zstd:9",
        shown_default="`zstd:3` where pg_dump can, else `gzip:1`",
    ),
    Setting(
        "dump_jobs",
        "count",
        1,
        "How many jobs dump one database; more than one needs the directory format, and scratch "
        "space.",
        "4",
    ),
    Setting(
        "dump_at_once",
        "count",
        1,
        "How many databases are dumped at a time.",
        "2",
    ),
    Setting(
        "dump_options",
        "words",
        (),
        "Further options of pg_dump.",
        "--no-comments --lock-wait-timeout=60s",
        shown_default="none",
    ),
    Setting(
        "pg_bin",
        "text",
        None,
        "Directories of PostgreSQL's programs that are looked at before the usual ones, with "
        "colons between them.",
        "/opt/pg18/bin",
        shown_default="the usual places",
    ),
    Setting(
        "scratch",
        "path",
        None,
        "Where the directory format passes through, and archives lie while several jobs restore "
        "them.",
        "/var/tmp",
        shown_default="`TMPDIR`, else `/tmp`",
    ),
)
