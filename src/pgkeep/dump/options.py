"""What a dump shall hold, and how it is made. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgkeep.config.dumps import ALL_PARTS, DatabaseSettings
from pgkeep.repository.dump_record import CUSTOM


@dataclass(frozen=True)
class DumpOptions:
    """``parts`` are of ``config.dumps.PARTS``. ``include`` and ``exclude`` are shell patterns of
    database names, of which the second wins; without any, all are dumped but templates.

    ``jobs`` work on one database (directory format only), ``at_once`` databases are dumped at a
    time. ``databases`` is what is said of single ones. ``scratch`` is where the directory format
    passes through.
    """

    cluster: str
    host: str
    by: Mapping[str, Any]
    note: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    with_templates: bool = False
    parts: frozenset[str] = ALL_PARTS
    format: str = CUSTOM
    compression: str | None = None
    jobs: int = 1
    at_once: int = 1
    extra: tuple[str, ...] = ()
    selection: DatabaseSettings = field(default_factory=DatabaseSettings)
    databases: Mapping[str, DatabaseSettings] = field(default_factory=dict)
    programs: str | None = None
    scratch: Path | None = None
    pause_replay: bool = False
    tries: int = 3
    source: str = "server"
    system_identifier: int | None = None
    force_version: bool = False

    @property
    def scope(self) -> str:
        """To which databases and to what of them the dump is narrowed, as text; empty for all."""
        narrowed = {
            "databases": self.include,
            "without": self.exclude,
            **{name: value for name, value in self.selection._asdict().items() if value},
            "options": self.extra,
        }
        return "; ".join(
            f"{name} {' '.join(sorted(words))}" for name, words in narrowed.items() if words
        )

    def of(self, database: str) -> DatabaseSettings:
        """Everything that is said of a database: by itself, else for all."""
        own = self.databases.get(database, DatabaseSettings())
        general = self.selection._replace(
            format=self.format,
            compression=self.compression,
            jobs=self.jobs,
            options=self.extra,
        )
        return own.over(general)
