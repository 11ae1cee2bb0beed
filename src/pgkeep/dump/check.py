"""Checking dumps: is all of each there, is it what was stored, and can it be read?

*Quick*: every part is listed with its size. *Scrub*: every byte is compared with its hash, which
takes no key; where there is one, pg_restore also lists what an archive holds. *Deep*: everything is
opened, and pg_restore decodes all of it, to nowhere.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgkeep.dump.directory import scratch_directory
from pgkeep.dump.fetch import unpack
from pgkeep.dump.pg_dump import method_of
from pgkeep.dump.process import Ended, Processes, run_feeding, run_quietly
from pgkeep.dump.unpacking import unpacked
from pgkeep.errors import DamagedObject, ObjectNotFound, PgkeepError, ProgramMissing, StoreError
from pgkeep.postgres.programs import Program, find_program, major_of
from pgkeep.progress import Progress
from pgkeep.repository.checks import DEEP, QUICK
from pgkeep.repository.dump_files import check_file, read_file
from pgkeep.repository.dump_record import DATABASE, DIRECTORY, PLAIN, Contents, DumpFile
from pgkeep.repository.dumps import CONTENTS, Dumps, read_dumps
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout

_LAST_LINE = b"PostgreSQL database dump complete"


@dataclass(frozen=True)
class DumpCheckOptions:
    """``share`` (0 to 1) of the bytes, and ``most_seconds``, bound the reading; which dumps are
    read then is left to chance, so that many short checks see all of them."""

    level: str
    environ: Mapping[str, str]
    programs: str | None = None
    scratch: Path | None = None
    share: float | None = None
    most_seconds: float | None = None


@dataclass
class DumpCheck:
    """What was found. ``problems`` are (key, what, dump); ``read`` are the dumps that were read
    whole."""

    dumps: int = 0
    read: list[str] = field(default_factory=list)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_dumps(
    repository: Repository, layout: Layout, options: DumpCheckOptions, *, progress: Progress
) -> DumpCheck:
    """Check those of one system. Raises what the store raises, but for damage."""
    found = DumpCheck()
    dumps = read_dumps(repository, layout)
    found.dumps = len(dumps.dumps) + len(dumps.problems)
    for one in dumps.problems:
        key = layout.dump(one.dump) + CONTENTS
        found.problems.append((key, one.error.what, one.dump))
    sizes = {info.key: info.size_bytes for info in repository.store.list(layout.dumps)}
    for dump in dumps.dumps:
        found.problems += _look(layout, dump.contents, sizes)
    if options.level != QUICK:
        _read_some(repository, layout, options, found, dumps, progress)
    _forget_deleted(repository, layout, found)
    return found


def _read_some(
    repository: Repository,
    layout: Layout,
    options: DumpCheckOptions,
    found: DumpCheck,
    dumps: Dumps,
    progress: Progress,
) -> None:
    broken = {name for _, _, name in found.problems}
    chosen = [one.contents for one in dumps.dumps if one.id not in broken]
    total = sum(one.stored_bytes for one in chosen)
    if options.share is not None or options.most_seconds is not None:
        random.shuffle(chosen)
    progress.phase(f"reading {len(chosen)} dumps")
    progress.total(total if options.share is None else int(total * options.share))
    reader = _Reader(repository, layout, options, found, progress)
    began, done = time.monotonic(), 0
    for contents in chosen:
        late = options.most_seconds is not None and time.monotonic() - began > options.most_seconds
        if late or (options.share is not None and done >= total * options.share):
            break
        reader.read(contents)
        done += contents.stored_bytes


def _forget_deleted(repository: Repository, layout: Layout, found: DumpCheck) -> None:
    """What expired while it was looked at is not damaged: contents are what a deletion takes
    first, so they are gone by now."""
    bad = sorted({name for _, _, name in found.problems})
    gone = {one for one in bad if not repository.store.exists(layout.dump(one) + CONTENTS)}
    found.problems = [one for one in found.problems if one[2] not in gone]
    found.dumps -= len(gone)


def _look(
    layout: Layout, contents: Contents, sizes: Mapping[str, int]
) -> Iterator[tuple[str, str, str]]:
    for file in contents.files:
        for part in file.parts:
            key = layout.dump(contents.dump) + part.name
            size = sizes.get(key)
            if size is None:
                yield key, "it is missing", contents.dump
            elif size != part.size_bytes:
                yield key, f"it has {size} bytes, and not {part.size_bytes}", contents.dump


class _Reader:
    """Reads dumps, and says what is wrong with them."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        options: DumpCheckOptions,
        found: DumpCheck,
        progress: Progress,
    ) -> None:
        self._repository, self._layout, self._options = repository, layout, options
        self._found, self._progress = found, progress
        self._processes = Processes()
        self._can_open = repository.keyring.can_read_data

    def read(self, contents: Contents) -> None:
        """One dump, file by file."""
        whole = True
        folder = self._layout.dump(contents.dump)
        for file in contents.files:
            try:
                self._file(contents, folder, file)
            except (DamagedObject, ObjectNotFound) as error:
                key = str(error.facts.get("object") or error.facts.get("key") or folder + file.name)
                what = error.what.removeprefix(f"{key} is damaged: ").rstrip(".")
                self._found.problems.append((key, what, contents.dump))
                whole = False
            except ProgramMissing as error:
                whole = False
                if error.what not in self._found.notes:
                    self._found.notes.append(error.what)
            except StoreError:
                raise
            except PgkeepError as error:
                self._found.problems.append((folder + file.name, error.what, contents.dump))
                whole = False
            self._progress.advance(file.size_bytes)
        if whole:
            self._found.read.append(contents.dump)

    def _file(self, contents: Contents, folder: str, file: DumpFile) -> None:
        if not self._can_open:
            check_file(self._repository, folder, file)
            return
        pieces = read_file(self._repository, folder, file)
        deep = self._options.level == DEEP
        if file.kind != DATABASE:
            for _ in pieces:
                pass
        elif file.format == PLAIN:
            self._plain(file, pieces)
        elif file.format == DIRECTORY:
            self._directory(contents, file, pieces, deep=deep)
        else:
            # Whatever pg_restore does not want is read here all the same: it has a hash, too.
            program = self._program(contents)
            rest = iter(pieces)
            ended = run_feeding(self._processes, _command(program, deep=deep), self._env(), rest)
            for _ in rest:
                pass
            _judge(file, ended)

    def _directory(
        self, contents: Contents, file: DumpFile, pieces: Iterator[bytes | bytearray], *, deep: bool
    ) -> None:
        program = self._program(contents)
        with scratch_directory(self._options.scratch) as scratch:
            unpack(pieces, scratch, file.name)
            command = [*_command(program, deep=deep), str(scratch)]
            _judge(file, run_quietly(self._processes, command, self._env()))

    def _plain(self, file: DumpFile, pieces: Iterator[bytes | bytearray]) -> None:
        end = b""
        for piece in unpacked(pieces, method_of(file.compression)):
            end = (end + bytes(piece))[-4096:]
        if _LAST_LINE not in end:
            raise DamagedObject(f"{file.name} is damaged: it does not end as pg_dump ends.")

    def _program(self, contents: Contents) -> Program:
        return find_program(
            "pg_restore",
            major_of(contents.program),
            directories=self._options.programs,
            environ=self._options.environ,
            why=f"pg_dump {contents.program} wrote the dump {contents.dump}.",
        )

    def _env(self) -> dict[str, str]:
        return {"PATH": self._options.environ.get("PATH", ""), "LC_ALL": "C"}


def _command(program: Program, *, deep: bool) -> list[str]:
    return [program.path, "--file=/dev/null"] if deep else [program.path, "--list"]


def _judge(file: DumpFile, ended: Ended) -> None:
    if ended.code != 0:
        raise DamagedObject(f"{file.name} is damaged: pg_restore cannot read it. {ended.why}")
