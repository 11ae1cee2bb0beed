"""Applying a plan of ``setup``: files first, then SQL, then a reload; a mistake is taken back.

A wrong line in pg_hba.conf can lock everybody out at the next reload, so the server is asked what
it thinks of the new file before it reads it in earnest, and the old one comes back if it objects.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.errors import LocalIOError, ServerError
from pgkeep.repository.host import write_durably
from pgkeep.setup.server import SetupPlan, Step

if TYPE_CHECKING:
    from pgkeep.postgres.connection import ServerConnection


def apply_setup(connection: ServerConnection, plan: SetupPlan) -> list[str]:
    """Do what the plan says; returns a sentence for each thing that is left to a person.

    Raises ``ServerError``, ``LocalIOError``. Safe to repeat: what was done is not planned again.
    """
    left = []
    for step in plan.steps:
        for statement in step.sql:
            # Made by plan_setup of quoted names and values; ALTER SYSTEM takes no parameters.
            connection.rows(statement.replace("%", "%%"))
        if step.file is not None and step.whole_file:
            _write_whole(step.file, step)
        elif step.file is not None:
            left += _add_lines(connection, step.file, step)
    if plan.needs_reload:
        connection.rows("SELECT pg_reload_conf()")
    return left


def _write_whole(path: Path, step: Step) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalIOError(
            f"{path.parent} cannot be made.",
            why=f"{error.strerror}.",
            remedy="Choose another place with --write-config.",
        ) from error
    write_durably(path, ("\n".join(step.lines) + "\n").encode())


def _add_lines(connection: ServerConnection, path: Path, step: Step) -> list[str]:
    """Put lines before all others of a file, if it is here and we may; else say so."""
    try:
        old = path.read_bytes()
        mode = path.stat().st_mode & 0o777
        writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        lines = "; ".join(step.lines)
        return [f"{path} cannot be written from here. Add at its top, then reload: {lines}"]
    new = "\n".join(["# pgkeep setup", *step.lines, ""]).encode() + old
    write_durably(path, new, mode=mode)
    problems = _objections(connection, path)
    if problems:
        write_durably(path, old, mode=mode)
        raise ServerError(
            f"The server does not accept the new {path.name}; the old one is back.",
            why=f"It says: {problems}.",
            remedy="Correct the file, then run pgkeep setup --apply again.",
        )
    return []


def _objections(connection: ServerConnection, path: Path) -> str:
    """What the server finds wrong with the file as it is on disk."""
    if path.name.startswith("pg_hba"):
        rows = connection.rows("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL")
    else:
        rows = connection.rows("SELECT error FROM pg_ident_file_mappings WHERE error IS NOT NULL")
    return "; ".join(str(row[0]) for row in rows)
