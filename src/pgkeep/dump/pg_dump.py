"""The command lines of pg_dump and pg_dumpall, and what a database's file is called."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pgkeep.config.dumps import DatabaseSettings
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.programs import Program
from pgkeep.repository.dump_record import CUSTOM, DIRECTORY, PLAIN

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHORT = {CUSTOM: "c", DIRECTORY: "d", PLAIN: "p"}
_ENDINGS = {CUSTOM: ".dump", DIRECTORY: ".tar", PLAIN: ".sql"}
_PACKED = {"gzip": ".gz", "zstd": ".zst", "lz4": ".lz4"}
_DEFAULT_ZSTD = "zstd:3"
# Names that mean a file of the dump itself.
_TAKEN = frozenset({"globals", "settings", "pg_hba", "pg_ident", "contents", "begun"})


def stem_of(database: str, oid: int, taken: Collection[str]) -> str:
    """The beginning of its files' names: its own, where that can be one, else ``database-<oid>``.

    ``taken`` are in lower case, since a folder on a disk may not tell the two apart.
    """
    is_plain = _PLAIN_NAME.fullmatch(database) and not database.lower().startswith("database-")
    if is_plain and database.lower() not in _TAKEN and database.lower() not in taken:
        return database
    return f"database-{oid}"


def file_name(stem: str, settings: DatabaseSettings, attempt: int) -> str:
    """What the file of a database is called; a further try gets another name, since what the
    earlier one stored is there for good."""
    again = f".{attempt}" if attempt > 1 else ""
    packed = ""
    if settings.format == PLAIN:
        packed = _PACKED.get(method_of(settings.compression), "")
    return f"{stem}{again}{_ENDINGS[settings.format or CUSTOM]}{packed}"


def method_of(compression: str | None) -> str:
    """``gzip`` of ``gzip:6`` or ``6``."""
    method = (compression or "none").partition(":")[0]
    return ("none" if method == "0" else "gzip") if method.isdigit() else method


def dump_command(
    program: Program,
    access: ServerAccess,
    database: str,
    settings: DatabaseSettings,
    *,
    left_out: Sequence[str] = (),
    into: Path | None = None,
) -> list[str]:
    """pg_dump to its standard output, or to a directory."""
    assert settings.format is not None
    command = [program.path, "--no-password", f"--format={_SHORT[settings.format]}"]
    if settings.compression is not None:
        command.append(f"--compress={_as_option(program, settings.compression)}")
    if into is not None:
        command += [f"--jobs={settings.jobs or 1}", f"--file={into}", "--no-sync"]
    for option, patterns in (
        ("schema", settings.schemas),
        ("exclude-schema", settings.exclude_schemas),
        ("table", settings.tables),
        ("exclude-table", settings.exclude_tables),
        ("exclude-table-data", settings.exclude_data),
    ):
        command += [f"--{option}={pattern}" for pattern in patterns]
    return [*command, *left_out, *settings.options, "-d", access.conninfo(database)]


def globals_command(
    program: Program, access: ServerAccess, database: str, *, passwords: bool
) -> list[str]:
    """pg_dumpall, of roles and tablespaces only."""
    # Else it is that of the database that we are connected to.
    command = [program.path, "--globals-only", "--no-password", "--encoding=UTF8"]
    if not passwords:
        command.append("--no-role-passwords")
    return [*command, "-d", access.conninfo(database)]


def default_compression(program: Program, environment: Mapping[str, str]) -> str:
    """zstd where pg_dump can, else gzip, which every one can: a tenth of the speed."""
    if program.major >= 16 and _knows_zstd(program.path, environment.get("PATH", "")):
        return _DEFAULT_ZSTD
    return "gzip:1"


@lru_cache
def _knows_zstd(path: str, search: str) -> bool:
    """It says so before it connects to anything; here to nothing that is there."""
    try:
        done = subprocess.run(
            [path, "-Fc", f"--compress={_DEFAULT_ZSTD}", "-w", "-d", "host=/nonexistent.pgkeep"],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
            env={"PATH": search, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return "nonexistent.pgkeep" in done.stderr


def possible_compression(program: Program, compression: str) -> str:
    """What the program makes of it: until 15 there is nothing but gzip, or none."""
    if program.major >= 16:
        return compression
    method, _, level = compression.partition(":")
    if method.isdigit():
        level = method
    elif method == "none":
        level = "0"
    elif not level.isdigit():
        level = "6"
    return "none" if level == "0" else f"gzip:{min(int(level), 9)}"


def _as_option(program: Program, compression: str) -> str:
    """As the program wants it: until 15 a number, the level of gzip."""
    if program.major >= 16:
        return compression
    return "0" if compression == "none" else compression.removeprefix("gzip:")
