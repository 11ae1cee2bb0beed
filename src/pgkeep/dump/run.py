"""Making a dump, from the first look at the server to the contents that let it exist.

The order is the promise: every file is stored, whole and under a name of its own, before the
contents name it; and the contents appear at once or not at all. Whatever ends the run before that
leaves objects that nobody lists, and that a later expiry takes away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from pgkeep import __version__
from pgkeep.dump.cluster_files import ClusterFiles, store_text
from pgkeep.dump.create_sql import create_script
from pgkeep.dump.database import DatabaseDump, DumpedDatabase
from pgkeep.dump.databases import choose_databases
from pgkeep.dump.facts import DumpFacts, read_dump_facts
from pgkeep.dump.options import DumpOptions
from pgkeep.dump.pg_dump import default_compression, stem_of
from pgkeep.dump.process import Processes
from pgkeep.dump.replay import paused_replay
from pgkeep.errors import DumpError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.programs import Program, find_program
from pgkeep.progress import Progress
from pgkeep.repository import dump_record as record
from pgkeep.repository import dumps
from pgkeep.repository.dump_files import Uploads
from pgkeep.repository.dump_record import Contents, DumpFile, Missing, Step
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import check_system
from pgkeep.units import to_utc_text


def make_dump(
    repository: Repository, access: ServerAccess, options: DumpOptions, *, progress: Progress
) -> Contents:
    """Make one, and return what it holds; ``missing`` says what it lacks.

    Raises ``DumpError`` when there would be nothing in it, ``ProgramMissing``, ``ServerError``,
    ``UnknownSystem``, and what the store raises.
    """
    began = datetime.now(UTC)
    with access.connect() as connection:
        facts = read_dump_facts(connection, force_version=options.force_version)
        identifier = options.system_identifier or facts.system_identifier
        layout = Layout(options.cluster, identifier)
        check_system(repository.store, options.cluster, identifier)
        chosen = choose_databases(connection, options)
        run = _Run(repository, layout, access, options, facts, began, progress)
        run.missing += chosen.missing
        guard: AbstractContextManager[None] = nullcontext()
        if options.pause_replay and facts.is_in_recovery:
            progress.phase("waiting for replay to pause")
            guard = paused_replay(access)
        with guard:
            name = dumps.claim(repository, layout, began, at=to_utc_text(began), by=options.by)
            files = run.store(name, connection, chosen.databases)
    contents = run.contents(name, files, chosen.databases, chosen.skipped)
    dumps.publish(repository, layout, contents, by=options.by)
    return contents


class _Run:
    """One run: what it works with, and what it found missing so far."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        access: ServerAccess,
        options: DumpOptions,
        facts: DumpFacts,
        began: datetime,
        progress: Progress,
    ) -> None:
        self._repository, self._layout, self._access = repository, layout, access
        self._options, self._facts, self._progress = options, facts, progress
        self._began, self._clock = began, time.monotonic()
        self._processes = Processes()
        self._environment = access.environment()
        self.missing: list[Missing] = []
        self.steps: list[Step] = []
        self._program = self._find("pg_dump")

    def store(
        self, dump: str, connection: ServerConnection, databases: list[dict[str, Any]]
    ) -> list[DumpFile]:
        """Store all files of the dump. Raises ``DumpError`` when no database could be dumped."""
        count = len(databases)
        self._progress.phase(f"dumping {count} database{'' if count == 1 else 's'}")
        streams = min(self._options.at_once, count)
        folder = self._layout.dump(dump)
        with Uploads(
            self._repository, folder, streams=streams, stored=self._progress.advance
        ) as uploads:
            try:
                files = self._cluster_files(uploads, connection)
                stems = self._stems(databases)
                for one in databases:
                    name = f"{stems[one['name']]}.create.sql"
                    text = create_script(one)
                    files.append(
                        store_text(uploads, name, record.CREATE, text, database=one["name"])
                    )
                dumped = self._databases(uploads, databases, stems)
            finally:
                self._processes.end_all()
        for found in dumped:
            self.steps += found.steps
            self.missing += found.missing
            if found.file is not None:
                files.append(found.file)
            else:
                files = [file for file in files if file.database != found.name]
        if not any(file.kind == record.DATABASE for file in files):
            raise DumpError(
                "No database could be dumped.",
                why=" ".join(f"{one.database}: {one.why}" for one in self.missing if one.database),
                remedy="Mend that, then run the command again.",
            )
        more = {found.name: found.facts for found in dumped}
        for fact in databases:
            fact.update(more[fact["name"]])
        return files

    def contents(
        self,
        name: str,
        files: list[DumpFile],
        databases: list[dict[str, Any]],
        skipped: list[str],
    ) -> Contents:
        """What is stored as the last object."""
        there = {file.database for file in files}
        return Contents(
            dump=name,
            cluster=self._layout.cluster,
            system_identifier=str(self._layout.system_identifier),
            started=to_utc_text(self._began),
            ended=to_utc_text(datetime.now(UTC)),
            seconds=round(time.monotonic() - self._clock, 3),
            postgres=self._facts.version,
            postgres_major=self._facts.major,
            program=self._program.version,
            host=self._options.host,
            role=self._facts.role,
            note=self._options.note,
            pgkeep=__version__,
            source=self._options.source,
            files=tuple(files),
            databases=tuple(one for one in databases if one["name"] in there),
            skipped=tuple(skipped),
            missing=tuple(self.missing),
            steps=tuple(self.steps),
            facts={**self._facts.as_dict(), "scope": self._options.scope},
        )

    # -- inside ----------------------------------------------------------------------------

    def _find(self, name: str) -> Program:
        major = self._facts.major
        return find_program(
            name,
            major,
            directories=self._options.programs,
            environ=self._access.environ,
            why=f"The server is PostgreSQL {major}, and an older {name} refuses it.",
        )

    def _stems(self, databases: list[dict[str, Any]]) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in databases:
            taken = {stem.lower() for stem in found.values()}
            found[one["name"]] = stem_of(one["name"], one["oid"], taken)
        return found

    def _cluster_files(self, uploads: Uploads, connection: ServerConnection) -> list[DumpFile]:
        parts = self._options.parts
        program = self._find("pg_dumpall") if "globals" in parts else None
        work = ClusterFiles(self._access, uploads, self._processes, self._environment, self._facts)
        files = work.store(connection, parts, program)
        self.missing += work.missing
        self.steps += work.steps
        return files

    def _databases(
        self, uploads: Uploads, databases: list[dict[str, Any]], stems: dict[str, str]
    ) -> list[DumpedDatabase]:
        """Dump them, the largest first, so many at a time; in their order."""
        default = default_compression(self._program, self._environment)
        work = DatabaseDump(
            self._access,
            self._options,
            self._program,
            self._processes,
            self._environment,
            uploads,
            default,
            is_standby=self._facts.is_in_recovery,
        )
        ordered = sorted(databases, key=lambda one: -(one["size_bytes"] or 0))
        pool = ThreadPoolExecutor(self._options.at_once, thread_name_prefix="dump")
        futures = {one["name"]: pool.submit(work.dump, one, stems[one["name"]]) for one in ordered}
        try:
            self._wait(futures.values())
        except BaseException:
            self._processes.end_all()
            self._repository.store.stop_waiting()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [futures[one["name"]].result() for one in databases]

    def _wait(self, futures: Iterable[Future[DumpedDatabase]]) -> None:
        """Until all are done, or one raised: what a database's own fault is, is a result."""
        left = set(futures)
        while left:
            done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                found = future.result()
                self._progress.note(f"{found.name}: {found.said}")
