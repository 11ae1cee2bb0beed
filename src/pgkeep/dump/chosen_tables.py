"""Which entries of an archive are restored when only some tables are wanted, and whether the living
database can take them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pgkeep.dump.directory import scratch_directory
from pgkeep.dump.fetch import unpack
from pgkeep.dump.process import Ended, Processes, run_feeding, run_reading
from pgkeep.dump.restore_plan import ADD, Load, LoadOptions
from pgkeep.dump.toc import Selection, parse_list, select_tables
from pgkeep.errors import DumpRefused, DumpRestoreFailed, NoSuchDump
from pgkeep.postgres.access import ServerAccess
from pgkeep.progress import Progress
from pgkeep.repository.dump_record import DIRECTORY, DumpFile


def list_archive(
    processes: Processes,
    pg_restore: str,
    environment: Mapping[str, str],
    file: DumpFile,
    pieces: Iterable[bytes | bytearray],
    *,
    scratch: Path | None,
) -> str:
    """What ``pg_restore --list`` says of an archive that comes in pieces, of which it reads the
    beginning only; a directory passes through scratch space. Raises ``DumpRestoreFailed``."""
    command = [pg_restore, "--list", "--verbose"]
    if file.format == DIRECTORY:
        text = bytearray()
        with scratch_directory(scratch) as place:
            unpack(pieces, place, file.name)
            ended = run_reading(processes, [*command, str(place)], environment, text.extend)
        return _listed(file, ended, bytes(text))
    with tempfile.TemporaryFile() as output:
        ended = run_feeding(processes, command, environment, pieces, stdout=output)
        output.seek(0)
        return _listed(file, ended, output.read())


def _listed(file: DumpFile, ended: Ended, text: bytes) -> str:
    if ended.code != 0:
        raise DumpRestoreFailed(f"The list of {file.name} cannot be read.", why=ended.why)
    return text.decode("utf-8", "replace")


def choose_tables(
    access: ServerAccess, load: Load, listed: str, options: LoadOptions, *, progress: Progress
) -> Selection:
    """What is restored of an archive that lists this. Raises ``NoSuchDump``, ``DumpRefused``."""
    entries = parse_list(listed)
    found = select_tables(entries, options.tables)
    if not found.tables:
        raise NoSuchDump(
            f"The dump of {load.file.database} has no table {', '.join(options.tables)}.",
            why="It has: "
            + ", ".join(f"{one.schema}.{one.name}" for one in entries if one.type == "TABLE"),
            remedy="Write table, or schema.table; patterns are the shell's.",
        )
    if load.action == ADD:
        _check_free(access, load, found)
    for one in found.left_out:
        progress.warn(f"Left out, since it needs a table that is not restored: {one}")
    return found


def _check_free(access: ServerAccess, load: Load, selection: Selection) -> None:
    with access.connect(load.name) as connection:
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


class UseList:
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
