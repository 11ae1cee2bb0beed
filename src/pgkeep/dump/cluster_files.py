"""The files of a dump that are of the cluster as a whole: globals, settings, who may come in."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgkeep.dump.cluster_parts import read_access_file, read_settings
from pgkeep.dump.facts import DumpFacts
from pgkeep.dump.pg_dump import globals_command
from pgkeep.dump.process import Processes, run_reading
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.programs import Program
from pgkeep.repository import dump_record as record
from pgkeep.repository.dump_files import FileWriter, Uploads
from pgkeep.repository.dump_record import DumpFile, Missing, Step

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection


@dataclass
class ClusterFiles:
    """Stores them. ``missing`` and ``steps`` say what could not be had, and what was done."""

    access: ServerAccess
    uploads: Uploads
    processes: Processes
    environment: Mapping[str, str]
    facts: DumpFacts
    missing: list[Missing] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def store(
        self, connection: ServerConnection, parts: Collection[str], pg_dumpall: Program | None
    ) -> list[DumpFile]:
        """Those of these parts; globals with the program. Raises ``ServerError``, and what the
        store raises."""
        files = []
        if pg_dumpall is not None:
            files += self._globals(connection, pg_dumpall, passwords="passwords" in parts)
        if "settings" in parts:
            began = time.monotonic()
            text, missing = read_settings(self.access)
            files.append(self._text("settings.conf", record.SETTINGS, text, began))
            self.missing += missing
        if "access" in parts:
            for kind, setting in ((record.HBA, "hba_file"), (record.IDENT, "ident_file")):
                began = time.monotonic()
                content, missing = read_access_file(connection, setting)
                self.missing += missing
                if content is not None:
                    files.append(self._text(f"pg_{kind}.conf", kind, content, began))
        return files

    def _globals(
        self, connection: ServerConnection, program: Program, *, passwords: bool
    ) -> list[DumpFile]:
        if passwords and not self.facts.is_superuser:
            passwords = False
            self.missing.append(
                Missing(None, "role passwords", f"{self.facts.role} is not a superuser")
            )
        database = connection.raw.info.dbname
        command = globals_command(program, self.access, database, passwords=passwords)
        began = time.monotonic()
        writer = FileWriter(self.uploads, "globals.sql")
        try:
            ended = run_reading(self.processes, command, self.environment, writer.write)
            said = ended.said[-2000:]
            self.steps.append(Step("globals", None, str(program), _since(began), ended.code, said))
            if ended.code != 0:
                self.missing.append(Missing(None, "roles and tablespaces", ended.why))
                return []
            stored = writer.finish()
        finally:
            writer.abandon()
        return [DumpFile("globals.sql", record.GLOBALS, writer.plain_bytes, stored)]

    def _text(self, name: str, kind: str, text: str, began: float) -> DumpFile:
        file = store_text(self.uploads, name, kind, text)
        self.steps.append(Step(kind, None, "pgkeep", _since(began), 0))
        return file


def store_text(
    uploads: Uploads, name: str, kind: str, text: str, *, database: str | None = None
) -> DumpFile:
    """A file that is at hand as a whole. Raises what the store raises."""
    data = text.encode()
    writer = FileWriter(uploads, name)
    try:
        writer.write(data)
        stored = writer.finish()
    finally:
        writer.abandon()
    return DumpFile(name, kind, len(data), stored, database)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
