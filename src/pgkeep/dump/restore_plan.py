"""What a restore of a dump would do, decided before anything is done.

Everything that can be seen beforehand is: versions, programs, extensions, roles, tablespaces,
locales, what is in the way. All obstacles are told at once, and then nothing was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgkeep.dump.fetch import chosen_files
from pgkeep.dump.preflight import Target, check_database, check_roles, check_tablespaces, look_at
from pgkeep.dump.statements import Statement
from pgkeep.errors import DumpRefused, NoSuchDump, UsageError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.programs import Program, find_program, major_of
from pgkeep.repository.dump_record import DATABASE, GLOBALS, PLAIN, Contents, DumpFile

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

CREATE, FILL, ADD, CLEAN = "create", "fill", "add", "clean"
"""Make the database; it is there and empty; add tables to it; replace what is in it."""


@dataclass(frozen=True)
class LoadOptions:
    """``databases`` empty means all; ``tables`` are shell patterns, ``table`` or ``schema.table``.

    ``rename`` is the new name of the only database. ``with_globals``: roles and tablespaces first.
    ``ownership`` and ``tablespaces`` off: as pg_restore's ``--no-owner --no-acl`` and
    ``--no-tablespaces``.
    """

    databases: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    rename: str | None = None
    clean: bool = False
    jobs: int = 1
    with_globals: bool = True
    ownership: bool = True
    tablespaces: bool = True
    programs: str | None = None
    scratch: Path | None = None


@dataclass(frozen=True)
class Load:
    """One database: its file, its facts, what it will be called, and what is done."""

    file: DumpFile
    facts: Mapping[str, Any]
    name: str
    action: str


@dataclass
class LoadPlan:
    """``statements`` are those of the globals that the server lacks; ``roles`` all that there will
    be. ``notes`` are sentences for people."""

    contents: Contents
    options: LoadOptions
    loads: list[Load]
    target: Target
    restore: Program | None
    psql: Program | None
    statements: list[Statement] = field(default_factory=list)
    roles: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)


def plan_load(
    access: ServerAccess, contents: Contents, statements: list[Statement], options: LoadOptions
) -> LoadPlan:
    """Decide. ``statements`` are the dump's globals, empty without them.

    Raises ``DumpRefused`` with every obstacle, ``NoSuchDump``, ``ProgramMissing``, ``UsageError``.
    """
    files = _files(contents, options)
    with access.connect() as connection:
        target = look_at(connection)
        problems = _version_problems(contents, target)
        restore, psql = _programs(access, contents, files, target, options)
        loads = []
        for file in files:
            facts = contents.facts_of(file.database or "")
            name = options.rename or str(file.database)
            action = _action(access, target, file, name, options, problems)
            loads.append(Load(file, facts, name, action))
        plan = LoadPlan(contents, options, loads, target, restore, psql)
        for one in contents.missing:
            where = f"{one.database}: " if one.database else ""
            plan.notes.append(f"The dump lacks {where}{one.what} ({one.why}).")
        if options.with_globals:
            plan.statements = _needed(statements, target, options)
        _check(connection, plan, problems)
    if problems:
        raise DumpRefused(
            f"The dump {contents.dump} cannot be restored so, and nothing was changed.",
            why=" ".join(text for text, _ in problems),
            remedy=" ".join(dict.fromkeys(remedy for _, remedy in problems)),
            problems=len(problems),
        )
    return plan


Problems = list[tuple[str, str]]
"""What is in the way, and what to do about it."""


def _files(contents: Contents, options: LoadOptions) -> list[DumpFile]:
    files = chosen_files(contents, options.databases)
    found = [one for one in files if one.kind == DATABASE]
    if (options.rename or options.tables) and len(found) != 1:
        what = "A new name" if options.rename else "Tables"
        raise UsageError(
            f"{what} can be given for one database only, and {len(found)} would be restored.",
            remedy="Name it with --database.",
        )
    if not found:
        raise NoSuchDump(f"The dump {contents.dump} has no database.")
    plain = [one.database for one in found if one.format == PLAIN]
    if plain and not (options.ownership and options.tablespaces):
        raise UsageError(
            f"{plain[0]} was dumped in plain format, in which owners and tablespaces stand in the "
            "statements themselves.",
            remedy="Leave out --no-owner and --no-tablespaces; or dump in custom format.",
        )
    if plain and (options.tables or options.clean or options.jobs > 1):
        raise UsageError(
            f"{plain[0]} was dumped in plain format, which is restored as a whole and by one job.",
            remedy="Leave out --table, --clean and --jobs; or dump in custom format.",
        )
    return found


def _programs(
    access: ServerAccess,
    contents: Contents,
    files: list[DumpFile],
    target: Target,
    options: LoadOptions,
) -> tuple[Program | None, Program | None]:
    """pg_restore and psql, as far as they are needed. An archive is read by no older program."""
    wrote = major_of(contents.program)
    found: dict[bool, Program] = {}
    for is_plain in {one.format == PLAIN for one in files}:
        found[is_plain] = find_program(
            "psql" if is_plain else "pg_restore",
            wrote,
            directories=options.programs,
            environ=access.environ,
            why=f"pg_dump {contents.program} wrote the dump.",
        )
    return found.get(False), found.get(True)


def _version_problems(contents: Contents, target: Target) -> Problems:
    problems: Problems = []
    if target.major < contents.postgres_major:
        problems.append(
            (
                f"The server is PostgreSQL {target.major}, and the dump is of "
                f"{contents.postgres_major}: what a newer one wrote, an older need not understand.",
                "Restore into a server of the same or a newer major version.",
            )
        )
    if target.is_in_recovery:
        problems.append(
            ("The server is a standby, which nobody can write to.", "Name its primary.")
        )
    return problems


def _action(
    access: ServerAccess,
    target: Target,
    file: DumpFile,
    name: str,
    options: LoadOptions,
    problems: Problems,
) -> str:
    from pgkeep.dump.preflight import is_empty

    if name not in target.databases:
        if options.tables:
            problems.append(
                (
                    f"There is no database {name!r} to put the tables into.",
                    f"Create it, or restore the whole database --as {name}.",
                )
            )
        return CREATE
    if options.clean:
        return CLEAN
    if options.tables:
        return ADD
    with access.connect(name) as connection:
        if is_empty(connection):
            return FILL
    problems.append(
        (
            f"The database {name!r} is there and holds something.",
            "Restore it under another name (--as), choose tables (--table), or replace what is in "
            "it (--clean).",
        )
    )
    return FILL


def _needed(statements: list[Statement], target: Target, options: LoadOptions) -> list[Statement]:
    """Of the globals what makes something that is not there. Roles and tablespaces that are there
    belong to a server that lives, and stay as they are."""
    found = []
    for one in statements:
        if one.tablespace is not None:
            if options.tablespaces and one.tablespace not in target.tablespaces:
                found.append(one)
        elif one.roles and any(role not in target.roles for role in one.roles):
            found.append(one)
        elif not one.roles and one.verb == "GRANT":
            found.append(one)  # on parameters
    return found


def _check(connection: ServerConnection, plan: LoadPlan, problems: Problems) -> None:
    target, options = plan.target, plan.options
    made = {role for one in plan.statements if one.verb == "CREATE" for role in one.roles}
    plan.roles = frozenset(target.roles | made)
    if made and not target.may_create_roles:
        problems.append(
            (
                f"{target.role} may not create the roles {', '.join(sorted(made))}.",
                "Connect as a superuser, or use --no-globals --no-owner.",
            )
        )
    if options.ownership:
        check_roles(plan.roles, plan.loads, problems)
    if options.tablespaces:
        has_globals = options.with_globals and plan.contents.file(GLOBALS) is not None
        check_tablespaces(connection, plan.contents, target, problems, with_globals=has_globals)
    for load in plan.loads:
        check_database(
            load.facts,
            target,
            problems,
            plan.notes,
            is_made=load.action == CREATE,
            whole=not options.tables,
        )
