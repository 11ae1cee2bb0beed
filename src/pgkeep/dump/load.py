"""Restoring a dump into a server: roles and tablespaces, then each database, as planned.

A statement that fails is a failure, always, and the first one ends it: pg_restore and psql are told
so. What is added to a database that lives goes in one transaction, unless several jobs do it, so
that a failure leaves it as it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pgkeep.dump.create_sql import creation, properties
from pgkeep.dump.directory import scratch_directory
from pgkeep.dump.fetch import NewFile, unpack
from pgkeep.dump.pg_dump import method_of
from pgkeep.dump.process import Ended, Processes, run_feeding, run_quietly, run_reading
from pgkeep.dump.restore_plan import ADD, CLEAN, CREATE, Load, LoadOptions, LoadPlan, plan_load
from pgkeep.dump.statements import Statement, parse_globals
from pgkeep.dump.toc import Selection, parse_list, select_tables
from pgkeep.errors import DamagedObject, DumpRefused, DumpRestoreFailed, NoSuchDump, ServerError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.connection import ServerConnection
from pgkeep.progress import Progress
from pgkeep.repository.dump_files import read_file
from pgkeep.repository.dump_record import DIRECTORY, GLOBALS, PLAIN, Contents
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout

_PACKED_BYTES = 16 << 10
_UNPACKED_BYTES = 4 << 20


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
        with _UseList(selection) as extra:
            command = [*self._pg_restore(load), *extra]
            return run_feeding(self._processes, command, self._environment, self._pieces(load))

    def _by_jobs(self, load: Load, selection: Selection | None) -> Ended:
        """Several jobs want to seek, and the directory format is a directory: in scratch space."""
        with scratch_directory(self._options.scratch) as scratch, _UseList(selection) as extra:
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

    # -- tables ----------------------------------------------------------------------------

    def _selection(self, load: Load) -> Selection:
        """What of the archive is restored. Raises ``NoSuchDump``, ``DumpRefused``."""
        entries = parse_list(self._list(load))
        found = select_tables(entries, self._options.tables)
        if not found.tables:
            raise NoSuchDump(
                f"The dump of {load.file.database} has no table {', '.join(self._options.tables)}.",
                why="It has: "
                + ", ".join(f"{one.schema}.{one.name}" for one in entries if one.type == "TABLE"),
                remedy="Write table, or schema.table; patterns are the shell's.",
            )
        if load.action == ADD:
            self._check_free(load, found)
        for one in found.left_out:
            self._progress.warn(f"Left out, since it needs a table that is not restored: {one}")
        return found

    def _check_free(self, load: Load, selection: Selection) -> None:
        with self._access.connect(load.name) as connection:
            there = {
                (schema, name)
                for schema, name in connection.rows(
                    "SELECT n.nspname::text, c.relname::text FROM pg_class c "
                    "JOIN pg_namespace n ON n.oid = c.relnamespace"
                )
            }
            schemas = {row[0] for row in connection.rows("SELECT nspname::text FROM pg_namespace")}
        taken = sorted(f"{s}.{n}" for s, n in selection.tables if (s, n) in there)
        if taken:
            raise DumpRefused(
                f"{load.name} has the tables already: {', '.join(taken)}. Nothing was changed.",
                remedy="Restore the database under another name and copy the rows over (--as), or "
                "replace the tables (--clean).",
            )
        lacking = sorted({schema for schema, _ in selection.tables} - schemas)
        if lacking:
            raise DumpRefused(
                f"{load.name} lacks the schemas {', '.join(lacking)}. Nothing was changed.",
                remedy="Create them there, then run the command again.",
            )

    def _list(self, load: Load) -> str:
        assert self._plan.restore is not None
        command = [self._plan.restore.path, "--list", "--verbose"]
        if load.file.format == DIRECTORY:
            with scratch_directory(self._options.scratch) as scratch:
                (scratch / "dump").mkdir()
                unpack(self._pieces(load), scratch / "dump", load.file.name)
                return self._read([*command, str(scratch / "dump")])
        return list_archive(
            self._processes, command, self._environment, self._pieces(load), load.file.name
        )

    def _read(self, command: list[str]) -> str:
        text = bytearray()
        ended = run_reading(self._processes, command, self._environment, text.extend)
        if ended.code != 0:
            raise DumpRestoreFailed("The archive's list cannot be read.", why=ended.why)
        return text.decode("utf-8", "replace")

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


def list_archive(
    processes: Processes,
    command: list[str],
    environment: Any,
    pieces: Iterable[bytes | bytearray],
    name: str,
) -> str:
    """What ``pg_restore --list`` says of an archive that comes in pieces; it reads the beginning
    only. Raises ``DumpRestoreFailed``."""
    with tempfile.TemporaryFile() as file:
        ended = run_feeding(processes, command, environment, pieces, stdout=file)
        if ended.code != 0:
            raise DumpRestoreFailed(f"The list of {name} cannot be read.", why=ended.why)
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def unpacked(pieces: Iterable[bytes | bytearray], method: str) -> Iterator[bytes | bytearray]:
    """The text of a plain dump that pg_dump compressed. Raises ``DumpRefused`` for lz4, which we
    cannot read."""
    if method == "gzip":
        import zlib

        unzip = zlib.decompressobj(wbits=31)
        try:
            for some in _slices(pieces):
                waiting: bytes = some
                while waiting:
                    yield unzip.decompress(waiting, _UNPACKED_BYTES)
                    waiting = unzip.unconsumed_tail
            yield unzip.flush()
        except zlib.error as error:
            raise DamagedObject(f"The dump does not decompress ({error}).") from error
    elif method == "zstd":
        import zstandard

        unpack_frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            for some in _slices(pieces):
                yield unpack_frame.decompress(some)
        except zstandard.ZstdError as error:
            raise DamagedObject(f"The dump does not decompress ({error}).") from error
    elif method == "none":
        yield from pieces
    else:
        raise DumpRefused(
            f"A plain dump that was compressed with {method} is not read by pgkeep.",
            remedy=f"Fetch it (pgkeep dump fetch), unpack it with {method}, and run psql on it.",
        )


def _slices(pieces: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """Little at a time: what compresses well becomes a thousand times as much."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _PACKED_BYTES):
            yield bytes(view[start : start + _PACKED_BYTES])


class _UseList:
    """The file that tells pg_restore which entries to restore; as options, none for all."""

    def __init__(self, selection: Selection | None) -> None:
        self._selection = selection
        self._file: Any = None

    def __enter__(self) -> list[str]:
        if self._selection is None:
            return []
        self._file = tempfile.NamedTemporaryFile("w", prefix="pgkeep-list-")
        self._file.writelines(f"{line}\n" for line in self._selection.lines)
        self._file.flush()
        return [f"--use-list={Path(self._file.name)}"]

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


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
