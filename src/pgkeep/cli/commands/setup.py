"""``pgkeep setup``: what the server still needs, printed or applied."""

from __future__ import annotations

import json
import os
import pwd
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.session import connect_server
from pgkeep.cli.store_settings import left_for_server, store_names, without_secrets
from pgkeep.config import Settings, state_directory
from pgkeep.errors import ConfigError, ServerError
from pgkeep.repository.layout import check_cluster_name

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection
    from pgkeep.setup.server import SetupPlan, SetupRequest

EXAMPLES = (
    ("pgkeep setup", "print what the server still needs"),
    ("pgkeep setup --apply", "do it (as a superuser of the server)"),
    ("pgkeep setup --role backup", "with another name for the role"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Names, and whether to act."""
    group = parser.add_argument_group("what to do")
    group.add_argument("--apply", action="store_true", help="do it, instead of printing it")
    group.add_argument(
        "--replace-archive-command",
        action="store_true",
        help="take the place of another archive_command",
    )
    group = parser.add_argument_group("names")
    group.add_argument("--role", default="pgkeep", metavar="NAME", help="role for backups (pgkeep)")
    group.add_argument(
        "--write-config",
        metavar="FILE",
        help="settings file for the archive command (in the state directory: pgkeep.toml, or "
        "pgkeep-NAME.toml for another cluster than main)",
    )
    group.add_argument(
        "--program", metavar="PATH", help="the pgkeep that the server shall call (this one)"
    )


def run(context: Context, args: Namespace) -> int:
    """Plan, then print or apply."""
    from pgkeep.setup.server import plan_setup

    connection, problem = _connect(context)
    try:
        request = _request(context, args, connection)
        plan = plan_setup(connection, request)
        left: list[str] = []
        if args.apply:
            if connection is None:
                assert problem is not None
                raise problem
            from pgkeep.setup.apply import apply_setup

            left = apply_setup(connection, plan)
    finally:
        if connection is not None:
            connection.close()
    if connection is None and problem is not None:
        context.output.warn(
            f"{problem.what} {problem.why or ''} So all is shown that a server may need."
        )
    _show(context, plan, request, applied=args.apply, left=left)
    return 0


def _connect(context: Context) -> tuple[ServerConnection | None, ServerError | None]:
    try:
        return connect_server(context), None
    except ServerError as error:
        return None, error


def _request(
    context: Context, args: Namespace, connection: ServerConnection | None
) -> SetupRequest:
    from pgkeep.setup.server import SetupRequest

    settings = context.settings
    if settings.repo is None:
        raise ConfigError(
            "No repository is named.", remedy="Set PGKEEP_REPO, or give --repo; then pgkeep init."
        )
    program = (str(Path(args.program).absolute()),) if args.program else context.program
    _check_program(program[0])
    own = Path(args.write_config).absolute() if args.write_config else None
    text: str | None = None
    if own is None and _file_suffices(settings):
        assert settings.config_file is not None
        config_file = Path(settings.config_file)
    else:
        state = state_directory(settings, context.owner_uid)
        config_file = own or state / _config_name(settings.cluster)
        text = _config_text(settings, _server_parameters(connection, args.role))
    return SetupRequest(
        role=args.role,
        program=program,
        config_file=config_file,
        config_text=text,
        system_user=_user_name(context.owner_uid),
        replace_archive_command=args.replace_archive_command,
        primary=settings.primary,
    )


def _config_name(cluster: str) -> str:
    """One file for each cluster: servers of one host may share a state directory, and each has
    to archive under its own name. Raises ``UsageError``."""
    check_cluster_name(cluster)
    return "pgkeep.toml" if cluster == "main" else f"pgkeep-{cluster}.toml"


def _check_program(path: str) -> None:
    """The server must be able to execute it; as whom it runs, we run by now."""
    if not os.access(path, os.X_OK):
        raise ConfigError(
            f"The server cannot execute {path}.",
            why=f"User {_user_name(os.geteuid())} is not allowed to, or it is not there.",
            remedy="Install pgkeep where everybody can execute it, or name it with --program.",
        )


def _file_suffices(settings: Settings) -> bool:
    """Whether the user's own file says all that the archive command has to know."""
    if settings.config_file is None or not os.access(settings.config_file, os.R_OK):
        return False
    names = ("repo", "cluster", "state", *store_names(settings))
    needed = {name: settings.origins[name] for name in names}
    needed["copies"] = settings.origins["copies"]
    for name, mirror in settings.mirrors.items():
        needed |= {f"{name}.{one}": mirror.origins[one] for one in ("repo", *store_names(mirror))}
    from_file = f"file {settings.config_file}"
    return needed.pop("repo") == from_file and all(
        origin in (from_file, "default") for origin in needed.values()
    )


def _config_text(settings: Settings, server: dict[str, str]) -> str:
    """A settings file with no secret but what opens the store, where no file holds that."""
    values = {
        "repo": settings.repo,
        "cluster": settings.cluster,
        "pgdata": settings.pgdata,
        "state": settings.state,
        "copies": None if settings.copies == "all" else str(settings.copies),
        **left_for_server(settings, secrets_by_file=True),
    }
    lines = ["# Written by pgkeep setup, for the server's archive_command."]
    lines += [f"{name} = {_toml(value)}" for name, value in values.items() if value]
    for name, mirror in settings.mirrors.items():
        given = {"repo": str(mirror.repo), **left_for_server(mirror, secrets_by_file=True)}
        lines += ["", f"[mirrors.{name}]"]
        lines += [f"{setting} = {_toml(value)}" for setting, value in given.items()]
    lines += ["", "[server]", *(f"{name} = {_toml(value)}" for name, value in server.items())]
    return "\n".join(lines) + "\n"


def _toml(text: str) -> str:
    """A TOML string; its escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _server_parameters(connection: ServerConnection | None, role: str) -> dict[str, str]:
    if connection is None:
        return {"user": role, "dbname": "postgres"}
    info = connection.raw.info
    return {"host": info.host, "port": str(info.port), "user": role, "dbname": info.dbname}


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _show(
    context: Context, plan: SetupPlan, request: SetupRequest, *, applied: bool, left: list[str]
) -> None:
    from pgkeep.setup.server import render_plan, statements

    steps = tuple(replace(step, lines=without_secrets(step.lines)) for step in plan.steps)
    plan = replace(plan, steps=steps)
    document = {
        "applied": applied,
        "archive_command": request.archive_command,
        "config_file": str(request.config_file),
        "steps": [
            {
                "title": step.title,
                "purpose": step.purpose,
                "sql": step.sql,
                "file": str(step.file) if step.file else None,
                "lines": step.lines,
            }
            for step in plan.steps
        ],
        "sql": statements(plan.steps),
        "left": [*plan.notes, *left],
        "needs_restart": plan.needs_restart,
    }

    def render() -> None:
        say = context.output.say
        if not plan.steps:
            say("Nothing is left to do: role, rights and archive settings are as they should be.")
        elif applied:
            for step in plan.steps:
                say(f"Done: {step.title}, {step.purpose}")
        else:
            for line in render_plan(plan):
                say(line)
        for note in document["left"]:  # type: ignore[attr-defined]
            say(f"{'Left to you' if applied else '-- Note'}: {note}")
        if plan.needs_restart:
            prefix = "" if applied else "-- "
            say(f"{prefix}Then restart the server: archive_mode and wal_level change only so.")
        if not applied and plan.steps:
            say("-- To have it done: pgkeep setup --apply")

    context.output.result(document, render)
