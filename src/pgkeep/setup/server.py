"""``setup``: what the server still needs, as a plan that is printed, or applied.

The plan is made by looking; applying executes exactly what was printed. Nothing that somebody else
set is overwritten: another archive_command is refused, for whoever set it relies on it.

The archive command names program and settings file by absolute paths, because the server runs it
with its own environment, which has neither our PATH nor our variables.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

from pgkeep.errors import ServerError
from pgkeep.postgres.privileges import backup_privileges
from pgkeep.postgres.quoting import quote_name, quote_text
from pgkeep.setup.archiving import (
    ARCHIVE_TIMEOUT_SECONDS,
    archive_changes,
    read_archive_settings,
)

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection

MAP_NAME = "pgkeep"


@dataclass(frozen=True)
class SetupRequest:
    """What is wanted. ``program`` by absolute path; ``config_file`` is what it is called with.

    ``config_text`` is what is to stand in that file, None when it is the user's own.
    ``system_user`` is the operating system's name of the data directory's owner. ``primary`` is
    how the primary of a standby is reached.
    """

    role: str
    program: tuple[str, ...]
    config_file: Path
    config_text: str | None
    system_user: str
    replace_archive_command: bool = False
    primary: str | None = None

    @property
    def archive_command(self) -> str:
        """As PostgreSQL's setting: quoted for the shell, ``%`` doubled but for ``%p``."""
        words = [*self.program, "--config", str(self.config_file), "wal-push"]
        return " ".join(shlex.quote(word).replace("%", "%%") for word in words) + " %p"


@dataclass(frozen=True)
class Step:
    """One change. ``sql`` are statements; ``lines`` are to stand first in ``file``."""

    title: str
    purpose: str
    sql: tuple[str, ...] = ()
    file: Path | None = None
    lines: tuple[str, ...] = ()
    whole_file: bool = False


@dataclass(frozen=True)
class SetupPlan:
    """All steps still needed, in order; ``notes`` are what no step can do."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    needs_restart: bool = False
    needs_reload: bool = False


@dataclass
class _Draft:
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    restart: bool = False
    reload: bool = False


def plan_setup(connection: ServerConnection | None, request: SetupRequest) -> SetupPlan:
    """What the server still needs; without a connection, all that a server may need.

    Raises ``ServerError`` when another archive command is set and must not be replaced.
    """
    draft = _Draft()
    _plan_config_file(draft, request)
    if connection is not None and connection.value("SELECT pg_is_in_recovery()"):
        _plan_standby(draft, connection, request)
    else:
        _plan_role(draft, connection, request)
    _plan_access(draft, connection, request)
    _plan_archiving(draft, connection, request)
    return SetupPlan(tuple(draft.steps), tuple(draft.notes), draft.restart, draft.reload)


def _plan_config_file(draft: _Draft, request: SetupRequest) -> None:
    text, path = request.config_text, request.config_file
    if text is None or (path.exists() and path.read_text() == text):
        return
    draft.steps.append(
        Step(
            "settings file",
            "for the archive command, which runs without your environment",
            file=path,
            lines=tuple(text.splitlines()),
            whole_file=True,
        )
    )


def _plan_role(draft: _Draft, connection: ServerConnection | None, request: SetupRequest) -> None:
    role = quote_name(request.role)
    attributes = _role_attributes(connection, request.role)
    if attributes is None:
        draft.steps.append(
            Step(
                f"role {request.role}",
                "to make backups with few rights; REPLICATION is for streaming WAL",
                sql=(f"CREATE ROLE {role} LOGIN REPLICATION",),
            )
        )
    elif attributes != (True, True):
        draft.steps.append(
            Step(
                f"role {request.role}",
                "it has to log in, and to stream WAL",
                sql=(f"ALTER ROLE {role} LOGIN REPLICATION",),
            )
        )
    grants = [
        privilege.grant.format(role=role)
        for privilege in backup_privileges()
        if attributes is None or not _holds(connection, request.role, privilege.name)
    ]
    if grants:
        draft.steps.append(
            Step("rights", "to read settings and to start and stop a backup", sql=tuple(grants))
        )


def _plan_standby(draft: _Draft, connection: ServerConnection, request: SetupRequest) -> None:
    """What a standby has from its primary, or needs of it, and cannot be given here."""
    from pgkeep.postgres.primary import connect_primary

    there = _Draft()
    _plan_role(there, connection, request)
    if there.steps:
        sql = "; ".join(statement for step in there.steps for statement in step.sql)
        draft.notes.append(
            "This is a standby, which gets role and rights from its primary. Run pgkeep setup "
            f"there, or: {sql};"
        )
    draft.notes.append(
        "While this is a standby, the primary archives. To archive here as well: "
        "archive_mode = always."
    )
    if request.primary is None:
        draft.notes.append(
            "A backup of a standby ends in a WAL segment that only the primary can finish. Set "
            "PGKEEP_PRIMARY to a connection string of it, or run SELECT pg_switch_wal() there "
            "whenever a backup waits."
        )
        return
    system = int(connection.value("SELECT system_identifier FROM pg_control_system()"))
    try:
        connect_primary(request.primary, connection, system & 0xFFFFFFFFFFFFFFFF).connection.close()
    except ServerError as error:
        draft.notes.append(str(error))


def _role_attributes(connection: ServerConnection | None, role: str) -> tuple[bool, bool] | None:
    """(may log in, may replicate) of a role; None when there is none."""
    if connection is None:
        return None
    rows = connection.rows(
        "SELECT rolcanlogin, rolreplication FROM pg_roles WHERE rolname = %s", (role,)
    )
    return (rows[0][0], rows[0][1]) if rows else None


def _holds(connection: ServerConnection | None, role: str, privilege: str) -> bool:
    if connection is None:
        return False
    if "(" in privilege:
        query: LiteralString = "SELECT has_function_privilege(%s::name, %s, 'EXECUTE')"
    else:
        query = "SELECT pg_has_role(%s::name, %s::name, 'USAGE')"
    return bool(connection.value(query, (role, privilege)))


def _plan_access(draft: _Draft, connection: ServerConnection | None, request: SetupRequest) -> None:
    """Lines of pg_hba.conf and pg_ident.conf by which the system user may be the role."""
    if connection is not None and not connection.raw.info.host.startswith("/"):
        line = f"hostssl all {_hba_word(request.role)} CLIENT-ADDRESS/32 scram-sha-256"
        draft.notes.append(
            f"This server is reached over TCP. Give the role a password (psql: \\password "
            f"{request.role}) and pg_hba.conf a line such as: {line}"
        )
        return
    hba, ident = _access_files(connection)
    role = _hba_word(request.role)
    lines = tuple(
        f"local {database:<12} {role} peer map={MAP_NAME}" for database in ("all", "replication")
    )
    users = f"{MAP_NAME} {_hba_word(request.system_user)} {role}"
    for file, wanted, purpose in (
        (ident, (users,), f"so that the system user {request.system_user} may be the role"),
        (hba, lines, "before all other lines, since the first that fits decides"),
    ):
        missing = tuple(line for line in wanted if not _has_line(file, line))
        if missing:
            draft.steps.append(Step(file.name, purpose, file=file, lines=missing))
            draft.reload = True


def _access_files(connection: ServerConnection | None) -> tuple[Path, Path]:
    if connection is None:
        return Path("pg_hba.conf"), Path("pg_ident.conf")
    hba, ident = (
        connection.value("SELECT current_setting('hba_file', true)"),
        connection.value("SELECT current_setting('ident_file', true)"),
    )
    return Path(hba or "pg_hba.conf"), Path(ident or "pg_ident.conf")


def _has_line(file: Path, line: str) -> bool:
    try:
        present = file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    return any(candidate.split() == line.split() for candidate in present)


def _plan_archiving(
    draft: _Draft, connection: ServerConnection | None, request: SetupRequest
) -> None:
    """Settings, from which the server takes some at a restart only."""
    now = read_archive_settings(connection)
    wanted = archive_changes(
        now, request.archive_command, replace_foreign=request.replace_archive_command
    )
    draft.restart = not now.archives_now
    if now.timeout_seconds > ARCHIVE_TIMEOUT_SECONDS:
        draft.notes.append(
            f"archive_timeout is {now.timeout_seconds} s and stays so: after a disaster up to "
            "that much may be lost."
        )
    if wanted:
        draft.reload = True
        sql = (f"ALTER SYSTEM SET {name} = {quote_text(value)}" for name, value in wanted.items())
        purpose = "so that every WAL segment goes into the repository"
        draft.steps.append(Step("archiving", purpose, sql=tuple(sql)))


def _hba_word(word: str) -> str:
    return word if word.isidentifier() and word.islower() else f'"{word}"'


def render_plan(plan: SetupPlan) -> list[str]:
    """The plan as lines that can be pasted: SQL as it is, the rest as comments."""
    lines: list[str] = []
    for step in plan.steps:
        lines += ["", f"-- {step.title}: {step.purpose}"]
        lines += [f"{statement};" for statement in step.sql]
        if step.file is not None:
            verb = "write" if step.whole_file else "add at the top of"
            lines.append(f"-- {verb} {step.file}:")
            lines += [f"--   {line}" for line in step.lines]
    if plan.needs_reload:
        lines += ["", "SELECT pg_reload_conf();"]
    return lines[1:] if lines and not lines[0] else lines


def statements(steps: Sequence[Step]) -> list[str]:
    """All SQL of the steps."""
    return [statement for step in steps for statement in step.sql]
