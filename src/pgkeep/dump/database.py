"""Dumping one database: what may be read of it, pg_dump, its stream into the repository.

What is the database's own fault (a table that vanished, a broken index, a conflict with replay) is
a result and named in the dump; what is the store's ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from pgkeep.config.dumps import DatabaseSettings
from pgkeep.dump.directory import run_directory, scratch_directory
from pgkeep.dump.options import DumpOptions
from pgkeep.dump.pg_dump import dump_command, file_name, possible_compression
from pgkeep.dump.process import Ended, Processes, run_reading
from pgkeep.dump.reach import Reach, look_into
from pgkeep.dump.replay import is_conflict
from pgkeep.dump.selection import selection_of
from pgkeep.errors import ServerError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.programs import Program
from pgkeep.repository.dump_files import FileWriter, Uploads
from pgkeep.repository.dump_record import CUSTOM, DATABASE, DIRECTORY, DumpFile, Missing, Step
from pgkeep.units import format_duration, format_size

_NOT_DUMPED = "not dumped because"
_CONFLICT_REMEDY = (
    " Let the standby wait for it (max_standby_streaming_delay, hot_standby_feedback), or use "
    "--pause-replay."
)


class DumpedDatabase(NamedTuple):
    """What became of it; ``file`` is None if it could not be dumped, and ``missing`` says why."""

    name: str
    file: DumpFile | None
    missing: tuple[Missing, ...]
    steps: tuple[Step, ...]
    facts: Mapping[str, Any] = {}

    @property
    def said(self) -> str:
        seconds = format_duration(sum(step.seconds for step in self.steps))
        if self.file is None:
            return f"not dumped ({seconds})"
        return f"{format_size(self.file.size_bytes)} stored in {seconds}"


class DatabaseDump(NamedTuple):
    """What dumping any database of a run takes. Used by many threads at once."""

    access: ServerAccess
    options: DumpOptions
    program: Program
    processes: Processes
    environment: Mapping[str, str]
    uploads: Uploads
    compression: str
    is_standby: bool

    def dump(self, facts: Mapping[str, Any], stem: str) -> DumpedDatabase:
        """Dump it, once more after a conflict with replay. Raises what the store raises."""
        name = facts["name"]
        settings = self._settings(name)
        try:
            with self.access.connect(name) as connection:
                reach = look_into(connection, name, selection_of(settings))
        except ServerError as error:
            gone = Missing(name, "the database", error.why or error.what)
            return DumpedDatabase(name, None, (gone,), ())
        steps: list[Step] = []
        for attempt in range(1, max(1, self.options.tries) + 1):
            began = time.monotonic()
            called = file_name(stem, settings, attempt)
            writer = FileWriter(self.uploads, called)
            try:
                ended = self._run(name, settings, reach, writer)
                seconds = round(time.monotonic() - began, 3)
                said = ended.said[-2000:]
                steps.append(Step("database", name, str(self.program), seconds, ended.code, said))
                if ended.code == 0:
                    parts = writer.finish()
                    file = DumpFile(
                        *(called, DATABASE, writer.plain_bytes, parts, name),
                        settings.format,
                        settings.compression,
                    )
                    missing = (*reach.missing, *_unread(name, ended))
                    return DumpedDatabase(name, file, missing, tuple(steps), reach.facts)
            finally:
                writer.abandon()
            if not is_conflict(ended.said):
                break
        why = ended.why + (_CONFLICT_REMEDY if is_conflict(ended.said) else "")
        return DumpedDatabase(name, None, (Missing(name, "the database", why),), tuple(steps))

    def _settings(self, name: str) -> DatabaseSettings:
        settings = self.options.of(name)
        form = settings.format or CUSTOM
        if form == CUSTOM and (settings.jobs or 1) > 1:
            form = DIRECTORY  # the only one in which several can write
        wanted = settings.compression or self.compression
        return settings._replace(
            format=form, compression=possible_compression(self.program, wanted)
        )

    def _run(
        self, name: str, settings: DatabaseSettings, reach: Reach, writer: FileWriter
    ) -> Ended:
        def command(**into: Any) -> list[str]:
            return dump_command(
                self.program, self.access, name, settings, left_out=reach.options, **into
            )

        if settings.format != DIRECTORY:
            return run_reading(self.processes, command(), self.environment, writer.write)
        with scratch_directory(self.options.scratch) as scratch:
            directory = scratch / "dump"
            directory.mkdir()
            return run_directory(
                self.processes,
                command(into=directory),
                self.environment,
                directory,
                writer.write,
                waiting=settings.jobs or 1,
            )


def _unread(name: str, ended: Ended) -> list[Missing]:
    """What pg_dump left out by itself, and only warned of."""
    return [
        Missing(name, *map(str.strip, text.split(_NOT_DUMPED, 1)))
        for text in ended.warnings
        if _NOT_DUMPED in text
    ]
