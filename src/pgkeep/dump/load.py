"""Restoring a dump into a server: roles and tablespaces, then each database, as planned.

A statement that fails is a failure, always, and the first one ends it: pg_restore and psql are told
so. What is added to a database that lives goes in one transaction, unless several jobs do it, so
that a failure leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from pgkeep.dump.chosen_tables import UseList, choose_tables, list_archive
from pgkeep.dump.create_sql import creation, labels, properties
from pgkeep.dump.directory import scratch_directory
from pgkeep.dump.fetch import NewFile, unpack
from pgkeep.dump.pg_dump import method_of
from pgkeep.dump.process import Ended, Processes, run_feeding, run_quietly
from pgkeep.dump.restore_plan import CLEAN, CREATE, Load, LoadOptions, LoadPlan, plan_load
from pgkeep.dump.statements import Statement, parse_globals
from pgkeep.dump.toc import Selection
from pgkeep.dump.unpacking import unpacked
from pgkeep.errors import DamagedObject, DumpRestoreFailed, ServerError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.connection import ServerConnection
from pgkeep.progress import Progress
from pgkeep.repository.dump_files import read_file
from pgkeep.repository.dump_record import DIRECTORY, GLOBALS, PLAIN, Contents
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout


def plan_restore(
    repository: Repository,
    layout: Layout,
    contents: Contents,
    access: ServerAccess,
    options: LoadOptions,
) -> LoadPlan:
    """What would be done; nothing is. Raises as :func:`plan_load`, and what reading raises."""
    statements: list[Statement] = []
    file = contents.file(GLOBALS)
    if options.with_globals and file is not None and not options.tables:
        pieces = read_file(repository, layout.dump(contents.dump), file)
        try:
            statements = parse_globals(b"".join(pieces).decode())
        except UnicodeDecodeError as error:
            raise DamagedObject(
                f"{file.name} of the dump {contents.dump} is not in UTF-8.",
                remedy="Restore with --no-globals, and make the roles from the file that "
                "pgkeep dump fetch brings.",
            ) from error
    return plan_load(access, contents, statements, options)


def restore_dump(
    repository: Repository,
    layout: Layout,
    plan: LoadPlan,
    access: ServerAccess,
    *,
    progress: Progress,
) -> None:
    """Do what was planned. Raises ``DumpRestoreFailed``, ``DamagedObject``, and what the store
    raises."""
    _Restore(repository, layout, plan, access, progress).run()


class _Restore:
    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        plan: LoadPlan,
        access: ServerAccess,
        progress: Progress,
    ) -> None:
        self._repository, self._plan, self._access = repository, plan, access
        self._folder = layout.dump(plan.contents.dump)
        self._options, self._progress = plan.options, progress
        self._processes = Processes()
        self._environment = access.environment()

    def run(self) -> None:
        try:
            if self._plan.statements:
                self._progress.phase("restoring roles and tablespaces")
                # All roles or none: one that is there is not touched by the next try. A tablespace
                # is made outside of transactions.
                spaces = [one.text for one in self._plan.statements if one.tablespace is not None]
                others = [one.text for one in self._plan.statements if one.tablespace is None]
                self._execute(others, in_one=True)
                self._execute(spaces)
            for load in self._plan.loads:
                self._progress.phase(f"restoring {load.name}")
                self._progress.total(load.file.size_bytes)
                self._database(load)
        finally:
            self._processes.end_all()

    # -- one database ----------------------------------------------------------------------

    def _database(self, load: Load) -> None:
        selection = self._selection(load) if self._options.tables else None
        if load.action == CREATE:
            self._execute([self._creation(load)])
        if not self._options.tables:
            self._execute(labels(load.facts, name=load.name))
        if load.file.format == PLAIN:
            ended = self._by_psql(load)
        elif load.file.format == DIRECTORY or self._options.jobs > 1:
            ended = self._by_jobs(load, selection)
        else:
            ended = self._by_stream(load, selection)
        if ended.code != 0:
            raise _failed(load, ended, in_one=self._in_one(load))
        if not self._options.tables:
            roles = self._plan.roles
            self._execute(self._without_owner(properties(load.facts, name=load.name, roles=roles)))

    def _creation(self, load: Load) -> str:
        facts = dict(load.facts)
        if not self._options.ownership:
            facts["owner"] = self._plan.target.role
        return creation(facts, name=load.name, tablespace=self._options.tablespaces)

    def _without_owner(self, statements: list[str]) -> list[str]:
        if self._options.ownership:
            return statements
        return [one for one in statements if not one.startswith(("GRANT ", "REVOKE "))]

    def _by_stream(self, load: Load, selection: Selection | None) -> Ended:
        """pg_restore from its standard input: nothing lies on disk."""
        with UseList(selection) as extra:
            command = [*self._pg_restore(load), *extra]
            return run_feeding(self._processes, command, self._environment, self._pieces(load))

    def _by_jobs(self, load: Load, selection: Selection | None) -> Ended:
        """Several jobs want to seek, and the directory format is a directory: in scratch space."""
        with scratch_directory(self._options.scratch) as scratch, UseList(selection) as extra:
            source = scratch / "dump"
            if load.file.format == DIRECTORY:
                source.mkdir()
                unpack(self._pieces(load), source, load.file.name)
            else:
                with NewFile(source) as write:
                    for piece in self._pieces(load):
                        write(piece)
            command = [*self._pg_restore(load), *extra]
            if self._options.jobs > 1:
                command.append(f"--jobs={self._options.jobs}")
            return run_quietly(self._processes, [*command, str(source)], self._environment)

    def _by_psql(self, load: Load) -> Ended:
        assert self._plan.psql is not None
        command = [
            *(self._plan.psql.path, "--no-psqlrc", "--quiet", "--no-password"),
            *("--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-"),
            *("-d", self._access.conninfo(load.name)),
        ]
        pieces = unpacked(self._pieces(load), method_of(load.file.compression))
        return run_feeding(self._processes, command, self._environment, pieces)

    def _pg_restore(self, load: Load) -> list[str]:
        assert self._plan.restore is not None
        command = [self._plan.restore.path, "--no-password", "--exit-on-error"]
        if self._in_one(load):
            command.append("--single-transaction")
        if load.action == CLEAN:
            command += ["--clean", "--if-exists"]
        if not self._options.ownership:
            command += ["--no-owner", "--no-acl"]
        if not self._options.tablespaces:
            command.append("--no-tablespaces")
        return [*command, "-d", self._access.conninfo(load.name)]

    def _in_one(self, load: Load) -> bool:
        return load.action != CREATE and self._options.jobs == 1

    def _pieces(self, load: Load) -> Iterator[bytes | bytearray]:
        return read_file(self._repository, self._folder, load.file, advance=self._progress.advance)

    def _selection(self, load: Load) -> Selection:
        """What of the archive is restored."""
        assert self._plan.restore is not None
        listed = list_archive(
            self._processes,
            self._plan.restore.path,
            self._environment,
            load.file,
            self._pieces(load),
            scratch=self._options.scratch,
        )
        return choose_tables(self._access, load, listed, self._options, progress=self._progress)

    # -- statements ------------------------------------------------------------------------

    def _execute(self, statements: list[str], *, in_one: bool = False) -> None:
        with self._access.connect() as connection:
            whole = connection.raw.transaction() if in_one and statements else nullcontext()
            with whole:
                self._execute_each(connection, statements)

    def _execute_each(self, connection: ServerConnection, statements: list[str]) -> None:
        if statements:
            # Names as the server's own scripts write them; E'…' only where it says so.
            connection.rows("SET standard_conforming_strings = on")
            for text in statements:
                try:
                    run_statement(connection, text)
                except ServerError as error:
                    raise DumpRestoreFailed(
                        "The server refused a statement, and the restore was stopped.",
                        why=f"{_shown(text)}: {error.why or error.what}",
                        remedy="Mend that, then run the command again.",
                    ) from error


def run_statement(connection: Any, text: str) -> None:
    """One statement that is a text of the dump's, and not ours: nothing in it is a placeholder."""
    import psycopg

    from pgkeep.postgres.connection import as_server_error

    try:
        connection.raw.execute(text.encode())
    except psycopg.Error as error:
        raise as_server_error(error, "The PostgreSQL server refused a statement.") from error


def _failed(load: Load, ended: Ended, *, in_one: bool) -> DumpRestoreFailed:
    state = (
        f"{load.name} is as it was before."
        if in_one
        else f"{load.name} is restored in part: drop it before you try again."
    )
    return DumpRestoreFailed(
        f"A statement failed while {load.file.database} was restored. {state}",
        why=ended.why,
        remedy="Mend that, then run the command again.",
        database=load.name,
    )


def _shown(text: str) -> str:
    """A statement without the secrets that it may hold."""
    import re

    text = re.sub(r"PASSWORD\s+'[^']*'", "PASSWORD '…'", " ".join(text.split()))
    return text[:200]
